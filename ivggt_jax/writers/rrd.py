"""`recording.rrd`: camera, image, depth and tracks over time, cloud and path so far, for the Rerun viewer (extra `rerun`).

Every frame adds some of its points and a piece of the path; the included blueprint shows all of them up to the current time. The
file's footer, by which viewers navigate, lists every chunk; until the run ends this list is in memory and grows with the file.

A Rerun file cannot be cut, so a resumed run continues in a second file of the same recording, `recording-000120.rrd` after 120
frames. Opened together (`rerun recording*.rrd`) they are one recording; frames in both are equal. After a kill a file has no
footer, but is still readable.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.writers.depth import depth_to_16_bit, depth_unit
from ivggt_jax.writers.files import ResumeError, naming
from ivggt_jax.writers.frusta import upright_along_axes
from ivggt_jax.writers.pixels import point_mask
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.trails import Trails, colour
from ivggt_jax.writers.writer import ExportOptions, Writer

MOST_POINTS = 1 << 20
"""A frame adds this many points divided by the number of frames so far; the cloud grows with the logarithm of that number."""
MOST_EACH = 4096
"""Most points of one frame."""
PATH = (220, 60, 30)
"""Colour of the path."""


class RrdWriter(Writer):
    """Logs every frame, and has it on disk before the next."""

    name = "rrd"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        rerun = packages()
        self._rerun, self._options, self._frames, self._begin = rerun, options, frames, frames
        self._trails = Trails(state)
        self._before = state.get("position")
        self._unit = float(state["unit"]) if "unit" in state else None
        self._path = out / (f"recording-{frames:06d}.rrd" if frames else "recording.rrd")
        if frames and not (out / "recording.rrd").is_file():
            raise ResumeError(out / "recording.rrd", 0, frames)
        with naming(self._path):
            out.mkdir(parents=True, exist_ok=True)
            for path in out.glob("recording-*.rrd"):
                count = path.stem.removeprefix("recording-")
                if count.isdecimal() and int(count) >= frames:
                    path.unlink()
            # The same for all parts of a run.
            identity = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
            self._recording = rerun.RecordingStream("ivggt_jax", recording_id=identity, send_properties=not frames)
            self._recording.save(self._path, default_blueprint=_blueprint(rerun))

    @classmethod
    def check(cls, first: Result) -> None:
        """Raises ValueError without the Rerun SDK."""
        packages()

    def write(self, result: Result) -> None:
        """Log the frame and wait until it is written."""
        rerun, log, frame = self._rerun, self._recording.log, result.frame
        height, width = frame.image.shape[:2]
        self._recording.set_time("frame", sequence=frame.index)
        if frame.timestamp is not None:
            self._recording.set_time("time", duration=frame.timestamp)
        pose = result.world_from_cam
        if not self._frames:
            log("world", getattr(rerun.ViewCoordinates, _names_of_axes(pose)), static=True)
        log("world/camera", rerun.Transform3D(translation=pose[:, 3], mat3x3=pose[:, :3]))
        from_corner = result.intrinsics + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        log("world/camera/image", rerun.Pinhole(image_from_camera=from_corner, resolution=(width, height)))
        log("world/camera/image", rerun.Image(frame.image).compress(jpeg_quality=90))
        if self._before is not None:
            piece = np.stack((self._before, pose[:, 3]))
            log("world/path", rerun.LineStrips3D([piece], colors=[PATH], radii=rerun.Radius.ui_points(1.5)))
        self._before = pose[:, 3]
        self._log_points(result)
        self._log_tracks(result)
        if result.depth is not None:
            if self._unit is None:
                self._unit = depth_unit(result.depth)
            steps = depth_to_16_bit(result.depth, self._unit, frame.mask)
            log("world/camera/image/depth", rerun.DepthImage(steps, meter=1 / self._unit))
        self._frames += 1
        with naming(self._path):
            try:
                self._recording.flush(timeout_sec=10)  # with a limit, because otherwise it waits forever on a full disk
            except RuntimeError as error:
                raise OSError(str(error)) from error

    def state(self) -> dict[str, np.ndarray]:
        """The unit of depth, the camera's position, and the tracks' latest places, once known."""
        state = {} if self._unit is None else {"unit": np.array(self._unit)}
        return state | ({} if self._before is None else {"position": self._before}) | self._trails.state()

    def close(self) -> None:
        """Close the file, and remove a further part that no frame was added to, because Rerun finds no recording in it."""
        self._recording.disconnect()
        if self._frames == self._begin > 0:
            self._path.unlink(missing_ok=True)

    def _log_points(self, result: Result) -> None:
        """Log some of the frame's confident points, sampled at random; nothing in a run without points."""
        if result.points is None:
            return
        keep = np.flatnonzero(point_mask(result, self._options))
        most = min(MOST_EACH, MOST_POINTS // (self._frames + 1))
        keep = np.random.default_rng(self._frames).permutation(keep)[:most]
        points, colours = (array.reshape(-1, 3)[keep] for array in (result.points, result.frame.image))
        self._recording.log("world/points", self._rerun.Points3D(points, colors=colours))

    def _log_tracks(self, result: Result) -> None:
        """Log the visible points and their trails."""
        if result.tracks is None:
            return
        rerun, log = self._rerun, self._recording.log
        self._trails.add(result)
        numbers, trails = [], []
        for number, trail in self._trails.lines():
            numbers.append(number)
            trails.append(trail + 0.5)  # Rerun counts pixels from the corner
        colours, here = [colour(number) for number in numbers], [trail[-1] for trail in trails]
        size = rerun.Radius.ui_points(3.0)
        log("world/camera/image/tracks", rerun.Points2D(here, colors=colours, radii=size, keypoint_ids=numbers))
        log("world/camera/image/trails", rerun.LineStrips2D(trails, colors=colours))


def _names_of_axes(world_from_cam: np.ndarray) -> str:
    """Where the world's x, y and z point for a camera [3, 4], in Rerun's letters: RDF is right, down and forward."""
    axes = upright_along_axes(world_from_cam[None])
    return "".join(("RDF" if axis.sum() > 0 else "LUB")[np.abs(axis).argmax()] for axis in axes.T)


def _blueprint(rerun: Any) -> Any:
    """The default layout of a viewer: the scene, with all points and the path so far, and the pictures."""
    views = rerun.blueprint
    so_far = [
        views.VisibleTimeRange(
            timeline, start=views.TimeRangeBoundary.infinite(), end=views.TimeRangeBoundary.cursor_relative()
        )
        for timeline in ("frame", "time")
    ]
    all_so_far = {f"world/{name}": views.VisibleTimeRanges(so_far) for name in ("points", "path")}
    return views.Blueprint(
        views.Horizontal(
            views.Spatial3DView(
                origin="world",
                name="scene",
                contents=["$origin/**", "- $origin/camera/image/depth"],
                overrides=all_so_far,
            ),
            views.Vertical(
                views.Spatial2DView(
                    origin="world/camera/image", name="image", contents=["$origin/**", "- $origin/depth"]
                ),
                views.Spatial2DView(origin="world/camera/image", name="depth", contents=["$origin/depth"]),
            ),
            column_shares=(2, 1),
        )
    )


def packages() -> Any:
    """The Rerun SDK. Raises ValueError with installation instructions if it is missing."""
    try:
        import rerun
        import rerun.blueprint
    except ImportError as error:
        raise ValueError('--export rrd needs the Rerun SDK: pip install "ivggt_jax[rerun]"') from error
    return rerun
