"""`export --refine-ba`: cameras adjusted to the run's own tracks, and only if tracks that took no part agree."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image  # noqa: F401 - before pycolmap: the zlib in pycolmap breaks Pillow's when it is loaded first
from scipy.spatial.transform import Rotation
from writer_scene import ALL, FITS, HEIGHT, WIDTH, camera, invert, result, saved

from ivggt_jax.export import ExportConfig, export
from ivggt_jax.options.align import AlignOptions
from ivggt_jax.trajectories.alignment import align_trajectory
from ivggt_jax.transforms import Similarity
from ivggt_jax.writers import Result, adjustment, colmap, refinement, write_run_json
from ivggt_jax.writers.adjustment import Cameras, Tracks, adjust, depth_factors, errors
from ivggt_jax.writers.bundle import solve
from ivggt_jax.writers.colmap import export_colmap
from ivggt_jax.writers.refinement import gather, refined
from ivggt_jax.writers.saved_run import SavedRun

pycolmap = pytest.importorskip("pycolmap")
FRAMES = 16


def disturbed(seed: int, fit: str = "resized", focal: float = 1.06, turn: float = 0.004) -> list[Result]:
    """The scene, whose poses wander, and whose focal length is wrong by a factor and different in each frame.

    The depth stays right, so that the tracks are found; seeded with `seed`.
    """
    random = np.random.default_rng(seed)
    items = []
    for index in range(FRAMES):
        item = result(index, FITS[fit])
        pose = camera(index)
        pose[:, :3] = Rotation.from_rotvec(random.normal(0, turn, 3) * (index > 0)).as_matrix() @ pose[:, :3]
        pose[:, 3] += random.normal(0, turn, 3) * (index > 0)
        matrix = item.intrinsics.copy()
        matrix[[0, 1], [0, 1]] *= focal * random.normal(1, 0.005)
        v, u = np.mgrid[:HEIGHT, :WIDTH]
        rays = np.stack(((u - WIDTH / 2) / matrix[0, 0], (v - HEIGHT / 2) / matrix[1, 1], np.ones(u.shape)), axis=-1)
        points = (rays * item.depth[..., None] @ pose[:, :3].T + pose[:, 3]).astype(np.float32)
        items.append(dataclasses.replace(item, cam_from_world=invert(pose), intrinsics=matrix, points=points))
    return items


def path_error(run: SavedRun) -> float:
    """Root mean square distance of the cameras from the truth after a similarity (ATE)."""
    found = np.stack([item.world_from_cam for item in run.cameras()])
    truth = np.stack([camera(index) for index in range(len(run))])
    moved = align_trajectory(found, truth, "sim3").poses(found)
    return float(np.sqrt(((moved - truth)[..., 3] ** 2).sum(axis=-1).mean()))


@pytest.mark.parametrize("fit", ["resized", "stretched"])
def test_a_disturbed_run_comes_nearer_to_the_truth(fit: str, tmp_path: Path) -> None:
    run = saved(tmp_path, disturbed(0, fit))
    better, how = refined(run, ALL)
    assert how.accepted and how.held_out > 10 and how.tracks_kept > 0.9 * how.tracks
    assert how.after < how.before / 10
    assert path_error(better) < 0.75 * path_error(run)
    truth = result(0, FITS[fit]).intrinsics
    for item in better.cameras():
        np.testing.assert_allclose(np.diagonal(item.intrinsics), np.diagonal(truth), rtol=0.005)
    np.testing.assert_allclose(better[0].cam_from_world, run[0].cam_from_world, atol=1e-9)


def test_depth_points_and_pixels_belong_together_afterwards(tmp_path: Path) -> None:
    """Each pixel's point is on its ray at its depth, as before."""
    better, _ = refined(saved(tmp_path, disturbed(1)), ALL)
    for item in (better[0], better[9]):
        in_camera = item.points @ item.cam_from_world[:, :3].T + item.cam_from_world[:, 3]
        np.testing.assert_allclose(in_camera[..., 2], item.depth, rtol=1e-4)
    tracks, cameras = gather(better, ALL)
    assert np.median(errors(tracks, cameras)) < 0.1


def test_the_colmap_model_is_the_adjusted_one(tmp_path: Path) -> None:
    run, _ = refined(saved(tmp_path, disturbed(2)), ALL)
    export_colmap(run, tmp_path, dataclasses.replace(ALL, dense=50))
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    tracked = [point for point in model.points3D.values() if point.track.length()]
    assert len(model.cameras) == 1 and len(tracked) == len(run.tracks.positions) and len(model.points3D) > len(tracked)
    assert min(point.track.length() for point in tracked) >= 3
    distances = []
    for point in tracked:
        for element in point.track.elements:
            image = model.images[element.image_id]
            assert image.points2D[element.point2D_idx].point3D_id in model.points3D
            distances.append(np.linalg.norm(image.project_point(point.xyz) - image.points2D[element.point2D_idx].xy))
    assert len(distances) == len(run.tracks.frames)
    assert np.percentile(distances, 90) < 0.3


def test_a_refined_model_is_not_called_too_thin_to_refine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(colmap, "FEW", 10**9)
    run = saved(tmp_path, disturbed(1))
    better, how = refined(run, ALL)
    assert how.accepted
    export_colmap(better, tmp_path / "refined", ALL)
    assert "too few to refine" not in caplog.text
    export_colmap(run, tmp_path / "own", ALL)
    assert "too few to refine" in caplog.text


def test_tracks_move_with_the_run(tmp_path: Path) -> None:
    run, _ = refined(saved(tmp_path, disturbed(2)), ALL)
    turn = Rotation.from_euler("xyz", (0.3, -0.2, 1.0)).as_matrix()
    similarity = Similarity(2.5, turn, np.array([1.0, -2.0, 3.0]))
    moved = run.moved(lambda *_: similarity)
    np.testing.assert_allclose(moved.tracks.positions, similarity.points(run.tracks.positions))
    np.testing.assert_allclose(moved[3].world_from_cam, similarity.poses(run[3].world_from_cam), atol=1e-12)


def test_what_left_out_tracks_do_not_confirm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here an adjustment that turns cameras at random."""

    def worse(tracks: Tracks, cameras: Cameras, _: object) -> tuple[Tracks, Cameras]:
        poses = cameras.cam_from_world.copy()
        poses[:, :, 3] += np.random.default_rng(0).normal(0, 0.1, (len(poses), 3))
        return tracks, dataclasses.replace(cameras, cam_from_world=poses)

    monkeypatch.setattr(refinement, "adjust", worse)
    run = saved(tmp_path, disturbed(0))
    same, how = refined(run, ALL)
    assert same is run and not how.accepted and how.after > how.before
    assert how.describe().startswith("not kept: ") and "; cameras stay as they were; " in how.describe()


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_tracks_change_nothing(count: int, tmp_path: Path) -> None:
    run = saved(tmp_path, [result(index) for index in range(count)])
    same, how = refined(run, ALL)
    assert same is run and how.describe().startswith("not kept: ")
    json.dumps(how.record(), allow_nan=False)


def scene(parts: int, random: np.random.Generator) -> tuple[Tracks, Cameras]:
    """Points in front of rows of 8 cameras, every part of which sees 60 of its own, exact but for 0.05 pixels."""
    frames, points, pixels, positions, origins, poses = [], [], [], [], [], []
    for part in range(parts):
        own = random.uniform((-2, -2, 4), (2, 2, 8), (60, 3)) + (10 * part, 0, 0)
        for index in range(8):
            turn = Rotation.from_rotvec((0.01 * index, -0.03 * index, 0.02)).as_matrix()
            pose = np.concatenate(
                (turn, turn @ -np.array([[10 * part + 0.2 * index], [0.05 * index**1.5], [0]])), axis=1
            )
            in_camera = own @ pose[:, :3].T + pose[:, 3]
            pixels.append(100 * in_camera[:, :2] / in_camera[:, 2:] + (56, 42) + random.normal(0, 0.05, (60, 2)))
            frames.append(np.full(60, 8 * part + index))
            points.append(60 * part + np.arange(60))
            poses.append(pose)
        positions.append(own)
        origins.append(np.full(60, 8 * part))
    world = np.concatenate(positions)
    tracks = Tracks(
        *map(np.concatenate, (frames, points, pixels)), world, np.zeros((len(world), 3), np.uint8),
        np.concatenate(origins), world,
    )  # fmt: skip
    count = 8 * parts
    lens, known = np.zeros(count, np.int64), np.zeros(count, bool)
    return tracks, Cameras(np.stack(poses), np.full(count, 100.0), np.tile((56.0, 42.0), (count, 1)), lens, known)


def shaken(cameras: Cameras, random: np.random.Generator, focal: float) -> Cameras:
    poses = cameras.cam_from_world.copy()
    poses[..., 3] += random.normal(0, 0.02, poses[..., 3].shape)
    return dataclasses.replace(cameras, cam_from_world=poses, focal=focal * cameras.focal)


def test_wrong_matches_are_dropped_and_bend_nothing() -> None:
    random = np.random.default_rng(0)
    tracks, truth = scene(1, random)
    wrong = random.random(len(tracks.frames)) < 0.1
    pixels = tracks.pixels + np.where(wrong[:, None], random.uniform(8, 30, tracks.pixels.shape), 0)
    kept, found = adjust(dataclasses.replace(tracks, pixels=pixels), shaken(truth, random, 1.05), solve)
    np.testing.assert_allclose(found.focal, 100, rtol=0.04)
    assert len(kept.frames) == pytest.approx((~wrong).sum(), abs=10)
    assert np.percentile(errors(kept, found), 95) < 0.15


def test_what_no_track_connects_is_adjusted_apart_and_stays_in_its_place() -> None:
    random = np.random.default_rng(1)
    tracks, truth = scene(2, random)
    few = np.ones(len(tracks.frames), bool)
    few[np.flatnonzero(tracks.frames == 5)[4:]] = False  # a frame with four observations
    start = shaken(truth, random, 1.05)
    kept, found = adjust(tracks.only(np.ones(120, bool), few), start, solve)
    assert 5 not in kept.frames and len(np.unique(found.focal)) == 1
    for first in (0, 8):
        np.testing.assert_allclose(found.cam_from_world[first], start.cam_from_world[first], atol=1e-9)
    assert np.median(errors(kept, found)) < 0.1
    steps = [
        np.array([Rotation.from_matrix(a[:, :3] @ b[:, :3].T).magnitude() for a, b in zip(one, one[1:], strict=False)])
        for one in (truth.cam_from_world, found.cam_from_world)
    ]
    np.testing.assert_allclose(steps[1][:4], steps[0][:4], atol=0.003)
    np.testing.assert_allclose(depth_factors(kept, start, found), 1, atol=0.15)


def test_a_part_that_cannot_be_adjusted_decides_no_focal_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """The larger of two: the other one still finds the lens that both have."""
    random = np.random.default_rng(1)
    tracks, truth = scene(2, random)
    adjust_part, given = adjustment._adjust_part, []

    def gives_up_once(tracks: Tracks, cameras: Cameras, solve: Any) -> tuple[Tracks, Cameras]:
        given.append(tracks)
        if len(given) == 1:
            return tracks.only(np.zeros(len(tracks.positions), bool)), cameras
        return adjust_part(tracks, cameras, solve)

    monkeypatch.setattr(adjustment, "_adjust_part", gives_up_once)
    start = shaken(truth, random, 1.05)
    _, found = adjust(tracks, start, solve)
    assert len(given) == 2 and abs(found.focal / truth.focal - 1).max() < 0.6 * abs(start.focal / truth.focal - 1).min()


def test_a_calibrated_focal_length_stays() -> None:
    random = np.random.default_rng(2)
    tracks, truth = scene(1, random)
    start = dataclasses.replace(shaken(truth, random, 1.0), known=np.ones(8, bool))
    _, found = adjust(tracks, start, solve)
    np.testing.assert_array_equal(found.focal, 100)
    assert np.median(errors(*adjust(tracks, start, solve))) < 0.1


def test_the_command_writes_a_folder_and_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "out", disturbed(3))
    write_run_json(tmp_path / "out", {"frames": FRAMES})
    config = ExportConfig(run=tmp_path / "out", to=("colmap", "tum"), refine_ba=True, options=ALL, align=AlignOptions())
    assert export(config) == 0
    folder = tmp_path / "out" / "refined"
    record = json.loads((folder / "refinement.json").read_text())
    assert record["accepted"] and record["after"] < record["before"]
    shown = capsys.readouterr().err
    assert "kept: bundle adjustment fits left-out tracks better" in shown and "not kept" not in shown
    assert (folder / "sparse" / "0" / "points3D.bin").is_file() and (folder / "trajectory.txt").is_file()


def test_without_pycolmap_a_line_says_what_to_install(tmp_path: Path) -> None:
    saved(tmp_path / "out", [result(index) for index in range(3)])
    write_run_json(tmp_path / "out", {"frames": FRAMES})
    hidden = "import sys; sys.modules['pycolmap'] = None; from ivggt_jax.export import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", hidden, str(tmp_path / "out"), "--to", "colmap", "--refine-ba"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("error: --refine-ba needs pycolmap: pip install 'ivggt_jax[splats]'")
