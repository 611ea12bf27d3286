"""Make the pictures in this folder: python docs/pictures/make_pictures.py [NAME…]

`demo`, `growing`, `map`, `moving` and `room` are what the demo model predicts; named, only they are made. The others need Chromium,
though no graphics card: scene.html of examples/walk.mp4, and the page of `ivggt view` for the ground truth of examples/room, which
has no cache fill to show.
"""

import base64
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import jax
import numpy as np
import trimesh
from PIL import Image
from websockets.sync.client import connect

from ivggt_jax import CacheConfig, SubmapConfig, cameras_from_pose, geometry, load, stream, synthetic
from ivggt_jax.depth_colours import colour_depth, inverse_depth_range
from ivggt_jax.evaluate.walks import FIELD_OF_VIEW, HELD_OUT_SEED, Walk, depth_errors
from ivggt_jax.sources import SourceConfig, open_source
from ivggt_jax.trajectories.alignment import align_trajectory, inverse
from ivggt_jax.trajectories.tables import poses_from_tum, read_table
from ivggt_jax.viewer.page import View
from ivggt_jax.writers import ExportOptions, Result, Writers
from ivggt_jax.writers.fusion import VoxelGrid
from ivggt_jax.writers.saved_run import SavedRun

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "examples"))
import make_room  # noqa: E402

SIZE = 126, 168
"""Height and width of what the demo model is shown in `demo` and `growing`."""
TOKENS = 6 * (5 + 12 * 9)
"""Of a frame of that size, in all layers."""
SECONDS_OF_PEACE = 8
"""Without a change a page counts as drawn; it is drawn in software, on a processor that may have other work."""
WITHOUT_NOTES = "document.querySelectorAll('.mantine-Notifications-root').forEach(note => note.remove())"
"""For a page: the note goes that there is no graphics card."""


class Browser:
    """Headless Chromium with one page, told what to do over its DevTools protocol."""

    def __init__(self, folder: Path, width: int, height: int, port: int = 9222):
        options = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        options += ["--hide-scrollbars", f"--window-size={width},{height}", f"--remote-debugging-port={port}"]
        self._process = subprocess.Popen(
            ["chromium", *options, f"--user-data-dir={folder}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._socket = connect(self._find_page(port), max_size=None)
        self._calls = 0
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def shoot(self, address: str, path: Path) -> None:
        """Open a page, wait until it is drawn, and keep what it shows."""
        self._call("Page.navigate", url=address)
        shown, before = None, ""
        while shown is None or shown != before:
            time.sleep(SECONDS_OF_PEACE)
            self._call("Runtime.evaluate", expression=WITHOUT_NOTES)
            shown, before = self._call("Page.captureScreenshot")["data"], shown
        keep(Image.open(io.BytesIO(base64.b64decode(shown))), path)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def _find_page(self, port: int) -> str:
        for _ in range(100):
            time.sleep(0.2)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                    return next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
            except (OSError, StopIteration):
                continue
        raise TimeoutError("Chromium does not answer")

    def _call(self, method: str, **parameters: object) -> dict:
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=600))
            if answer.get("id") == self._calls:
                return answer["result"]


def write_truth(run: Path) -> None:
    """The room's true cameras, depth and points as a run's files."""
    scene, cameras, intrinsics = make_room.room()
    poses = geometry.relative_to_first(cameras)
    height, width = make_room.HEIGHT, make_room.WIDTH
    render = jax.jit(lambda camera: synthetic.render(scene, camera, intrinsics, height, width))
    writers = Writers(["npz", "ply"], run, ExportOptions())
    with open_source(SourceConfig(frames=str(make_room.FOLDER / "frames"), size=width)) as source:
        for frame, camera, pose in zip(source, cameras, poses, strict=True):
            depth = render(camera).depth
            points, sure = geometry.unproject(depth, pose, intrinsics), np.ones((height, width), np.float32)
            maps = {"depth": np.asarray(depth), "points": np.asarray(points)}
            maps |= {"depth_confidence": sure, "points_confidence": sure}
            exact = {"cam_from_world": np.asarray(pose, float), "intrinsics": np.asarray(intrinsics, float)}
            writers.write(Result(frame=frame, **exact, **maps))
    writers.close()


def draw_room(run: Path) -> Image.Image:
    """Three frames of a run on examples/room, their predicted depth, and the predicted cloud."""
    shown = (0, 14, 29)
    images = [np.asarray(Image.open(path)) for path in sorted((make_room.FOLDER / "frames").iterdir())]
    depth = [np.load(run / "frames" / f"{number:06d}.npz")["depth"].astype(np.float32) for number in shown]
    near_and_far = inverse_depth_range(np.concatenate(depth), None)
    rows = []
    for number, each in zip(shown, depth, strict=True):
        pair = Image.fromarray(images[number]), Image.fromarray(colour_depth(each, near_and_far))
        rows.append(np.hstack([np.asarray(picture.resize((240, 180), Image.Resampling.LANCZOS)) for picture in pair]))
    return Image.fromarray(np.hstack([np.vstack(rows), np.asarray(draw_cloud(run, 720, 540))]))


def draw_cloud(run: Path, width: int, height: int) -> Image.Image:
    """The cloud of a run, every pixel of it, from a little behind the first camera and above it, the nearest on top."""
    grid = SavedRun(run).cloud(ExportOptions(confidence=0))
    points, colours = grid.cloud()
    middle = np.median(points, axis=0)
    here = np.linalg.norm(middle) * np.array((-0.12, -0.2, -0.4))
    forward = (middle - here) / np.linalg.norm(middle - here)
    right = np.cross((0, 1, 0), forward) / np.linalg.norm(np.cross((0, 1, 0), forward))
    x, y, z = ((points - here) @ np.stack((right, np.cross(forward, right), forward), axis=1)).T
    order = np.flatnonzero(z > 0.1)[np.argsort(-z[z > 0.1])]
    focal, side = 0.8 * width, np.ceil(0.8 * width * float(grid.voxel or 0) / z[order])
    column, row = (np.rint(focal * axis[order] / z[order]).astype(int) for axis in (x, y))
    picture = np.full((height, width, 3), 255, np.uint8)
    for down, along in np.ndindex(8, 8):
        u, v = column + width // 2 + along, row + height // 2 + down
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (max(down, along) <= side)
        picture[v[inside], u[inside]] = colours[order][inside]
    return Image.fromarray(picture)


def draw_demo() -> Image.Image:
    """Frames of a room that no training saw, their true depth, and the demo model's after one scale for ten frames."""
    part = Walk("loop", HELD_OUT_SEED, *SIZE).part(0, 100)
    cache = CacheConfig(total_budget=16 * TOKENS)
    depth = np.stack([np.asarray(predictions.depth) for predictions in stream(load("demo"), part.images, cache)])
    depth *= depth_errors(depth, part.depth).scale[:, None, None]
    rows = []
    for image, *maps in zip(part.images, part.depth, depth, strict=True):
        near_and_far = inverse_depth_range(maps[0], None)
        rows.append(np.hstack([image, *(colour_depth(each, near_and_far) for each in maps)]))
    picture = Image.fromarray(np.vstack(rows[30:100:30]))
    return picture.resize((4 * picture.width // 3, 4 * picture.height // 3), Image.Resampling.LANCZOS)


def draw_growing() -> list[Image.Image]:
    """A stream of 400 frames once around a room, every fourth of them: the frame, its depth, and from above what is mapped so far.

    The map is laid on the true room by the similarity that fits the whole path best.
    """
    walk, grid = Walk("loop", HELD_OUT_SEED, *SIZE), VoxelGrid(0.03, 1 << 20)
    part = walk.part(0, 400)
    options = {"submaps": SubmapConfig(), "heads": ("camera", "depth")}
    found = list(stream(load("demo"), part.images, CacheConfig(total_budget=48 * TOKENS), **options))
    depth = np.stack([np.asarray(each.depth) for each in found])
    poses = [cameras_from_pose(each.pose_encoding, *SIZE) for each in found]
    path = np.stack([inverse(np.asarray(pose)) for pose, _ in poses])
    fit, near_and_far = align_trajectory(path, part.world_from_cam, "sim3"), inverse_depth_range(depth, None)
    places = fit.points(path[:, :, 3])
    least, most = places.min(axis=0)[[0, 2]] - 3, places.max(axis=0)[[0, 2]] + 3
    pictures = []
    for number, (image, each, (pose, intrinsics)) in enumerate(zip(part.images, depth, poses, strict=True)):
        points = fit.points(np.asarray(geometry.unproject(each, pose, intrinsics)).reshape(-1, 3))
        grid.add(points, image.reshape(-1, 3))
        if number % 4 == 3:
            above = draw_from_above(*grid.cloud(), places[: number + 1], least, most)
            pair = [Image.fromarray(side).resize((256, 192)) for side in (image, colour_depth(each, near_and_far))]
            left = np.vstack([np.asarray(side) for side in pair])
            right = Image.fromarray(above)
            right = right.resize((round(384 * right.width / right.height), 384), Image.Resampling.LANCZOS)
            pictures.append(Image.fromarray(np.hstack([left, np.asarray(right)])))
    return pictures


def draw_map(folder: Path) -> Image.Image:
    """A room from above, between its floor and ceiling, and the path of a camera that walked through it for 1,000 frames.

    As it is, as a run says, and as loops correct it; both are laid on the true path by the similarity that fits best.
    """
    walk, poses, grid = Walk("return", HELD_OUT_SEED, 84, 112), [], VoxelGrid(0.03, 1 << 20)
    (folder / "walk").mkdir()
    intrinsics = geometry.intrinsics_from_field_of_view(np.deg2rad(FIELD_OF_VIEW), 84, 112)
    for number in range(1000):
        part = walk.part(number, 1)
        poses.append(part.world_from_cam[0])
        Image.fromarray(part.images[0]).save(folder / "walk" / f"{number:06d}.png")
        if number % 5 == 0:
            points = np.asarray(geometry.unproject(part.depth[0], inverse(poses[-1]), intrinsics)).reshape(-1, 3)
            grid.add(points, part.images[0].reshape(-1, 3))
    truth, run = np.stack(poses), folder / "run"
    command = [sys.executable, "-m", "ivggt_jax", str(folder / "walk"), "--out", str(run), "--loops"]
    subprocess.run(command, check=True)

    points, colours = grid.cloud()
    least, most = np.percentile(points[:, [0, 2]], (0.5, 99.5), axis=0) + np.array([[-0.5], [0.5]])
    panels = [draw_from_above(points, colours, truth[:, :, 3], least, most)]
    for found in (run, run / "corrected"):
        path = poses_from_tum(read_table(found / "trajectory.txt", 8)[0])
        fit = align_trajectory(path, truth, "sim3")
        cloud = trimesh.load(found / "points.ply")
        colours = np.asarray(cloud.colors)[:, :3]
        panels.append(draw_from_above(fit.points(cloud.vertices), colours, fit.points(path[:, :, 3]), least, most))
    return Image.fromarray(np.hstack(panels))


def draw_moving(folder: Path) -> tuple[Image.Image, Image.Image]:
    """Three frames of a walk among bodies, tinted where something moves and where the run found it; and two clouds from above.

    The clouds are that of everything and that of `--moving drop`, both laid on the true path by the similarity that fits best.
    """
    part = Walk("crowd", HELD_OUT_SEED + 200, 84, 112).part(0, 120)
    (folder / "crowd").mkdir()
    for number, image in enumerate(part.images):
        Image.fromarray(image).save(folder / "crowd" / f"{number:06d}.png")
    panels = []
    for moving in ("keep", "drop"):
        run = folder / moving
        command = [sys.executable, "-m", "ivggt_jax", str(folder / "crowd"), "--out", str(run), "--moving", moving]
        subprocess.run([*command, "--export", "tum", "ply", "masks"], check=True)
        path = poses_from_tum(read_table(run / "trajectory.txt", 8)[0])
        fit = align_trajectory(path, part.world_from_cam, "sim3")
        cloud = trimesh.load(run / "points.ply")
        positions = part.world_from_cam[:, [0, 2], 3]
        least, most = positions.min(axis=0) - 4, positions.max(axis=0) + 4
        colours = np.asarray(cloud.colors)[:, :3]
        panels.append(draw_from_above(fit.points(cloud.vertices), colours, fit.points(path[:, :, 3]), least, most))
    rows = []
    for number in (40, 75, 110):
        found = np.asarray(Image.open(folder / "drop" / "masks" / f"{number:06d}.png.png").convert("L")) == 0
        shown = [part.images[number], *(tinted(part.images[number], mask) for mask in (part.moving[number], found))]
        rows.append(np.hstack([np.asarray(Image.fromarray(side).resize((280, 210))) for side in shown]))
    return Image.fromarray(np.vstack(rows)), Image.fromarray(np.hstack(panels))


def tinted(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image uint8 [H,W,3], half red where the mask [H,W] is True."""
    return np.where(mask[..., None], image // 2 + np.uint8([127, 0, 20]), image).astype(np.uint8)


def draw_from_above(
    points: np.ndarray, colours: np.ndarray, path: np.ndarray, least: np.ndarray, most: np.ndarray
) -> np.ndarray:
    """Points [N,3] from 0.15 to 1.8 m above the floor and a path [T,3] in red, where x and z are from `least` to `most`."""
    width, height = 400, round(400 * (most - least)[1] / (most - least)[0])
    picture = np.full((height, width, 3), 255, np.uint8)
    between = np.flatnonzero((points[:, 1] < -0.15) & (points[:, 1] > -1.8))  # y points down, the floor is at 0
    between = between[np.argsort(-points[between, 1])]
    for places, colour in ((points[between], colours[between]), (path, np.uint8([[220, 0, 40]]))):
        for shift in np.ndindex(2, 2):
            column, row = ((places[:, [0, 2]] - least) / (most - least) * (width, height) + shift).astype(int).T
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            picture[row[inside], column[inside]] = np.broadcast_to(colour, places.shape)[inside]
    return picture


def keep(picture: Image.Image, path: Path) -> None:
    """Write a picture in a palette that keeps it small."""
    picture.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1).save(path, optimize=True)
    print(f"{path.name}: {picture.size}, {path.stat().st_size // 1000} kB")


def main() -> None:
    """The command."""
    names = sys.argv[1:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if not names or "room" in names:
            predicted = Path(folder) / "predicted"
            command = [sys.executable, "-m", "ivggt_jax", str(make_room.FOLDER / "frames"), "--out", str(predicted)]
            subprocess.run(command, check=True)
            keep(draw_room(predicted), HERE / "room.png")
        if not names or "demo" in names:
            keep(draw_demo(), HERE / "demo.png")
        if not names or "growing" in names:
            first, *others = draw_growing()
            first.save(
                HERE / "growing.webp", save_all=True, append_images=others, duration=200, loop=0, quality=50, method=6
            )
        if not names or "map" in names:
            keep(draw_map(Path(folder)), HERE / "map.png")
        if not names or "moving" in names:
            frames, clouds = draw_moving(Path(folder))
            keep(frames, HERE / "moving.png")
            keep(clouds, HERE / "moving_clouds.png")
        if names:
            return
        run, walk = Path(folder) / "room", Path(folder) / "walk"
        write_truth(run)
        video = str(make_room.FOLDER.parent / "walk.mp4")
        options = ["--size", "168", "--loops", "--export", "html", "--out", str(walk)]
        subprocess.run([sys.executable, "-m", "ivggt_jax", video, *options], check=True)
        with contextlib.closing(Browser(Path(folder) / "chromium", 1200, 800)) as browser:
            with View(run, 0, lambda: None) as page:
                browser.shoot(page.address, HERE / "view.png")
            browser.shoot((walk / "corrected" / "scene.html").as_uri(), HERE / "html.png")


if __name__ == "__main__":
    main()
