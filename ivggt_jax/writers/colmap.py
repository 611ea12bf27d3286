"""`sparse/0/`: a COLMAP model (cameras.bin, images.bin, points3D.bin) next to the `images/` that it refers to.

cam_from_world, quaternion wxyz, the corner of the first pixel at (0, 0). Cameras are PINHOLE; those of a calibrated run whose
pictures are the distorted originals are OPENCV, FULL_OPENCV or OPENCV_FISHEYE. Points with tracks of at least three views
(`tracks`) come first, then points of the fused cloud, without tracks, as a start for splats.
https://colmap.github.io/format.html#binary-file-format
"""

import logging
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy.spatial.transform import Rotation

from ivggt_jax.cameras.models import Camera
from ivggt_jax.writers.files import replacing
from ivggt_jax.writers.images import Pictures, View, lenses
from ivggt_jax.writers.known_tracks import KnownTracks
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.tracks import REACH, NewPoints, Tracker
from ivggt_jax.writers.writer import ExportOptions

logger = logging.getLogger(__name__)

FEW = 100
"""Number of tracked points below which a model is thin."""
PINHOLE, OPENCV, OPENCV_FISHEYE, FULL_OPENCV = 1, 4, 5, 6
"""COLMAP's numbers of camera models with fx, fy, cx, cy and distortion."""


def export_colmap(run: SavedRun, out: Path, options: ExportOptions) -> None:
    """Write `sparse/0/` and `images/` into the folder `out`, frame by frame.

    Images are numbered from 1 in the order of the run. Raises ValueError for a run without depth, WriteError when the disk is
    full.
    """
    model = out / "sparse" / "0"
    pictures = Pictures(out / "images", options.images, run.source)
    views = [pictures.place(result) for result in run.cameras()]
    pictures.check()
    cameras = lenses(views, options)
    numbers = {lens: number for number, lens in enumerate(dict.fromkeys(cameras), start=1)}
    tracker = Tracker(options) if run.tracks is None else KnownTracks(run)
    points = 0
    with replacing(model / "points3D.bin") as points_file, replacing(model / "images.bin") as images_file:
        points_file.write(struct.pack("<Q", 0))  # the number of points, filled in at the end
        images_file.write(struct.pack("<Q", len(run)))
        for position in range(-REACH, len(run) + REACH):
            if 0 <= position + REACH < len(run):
                tracker.feed(run[position + REACH])
            if 0 <= position < len(run):
                new = tracker.points_of(position)
                points += len(new.numbers)
                _write_points(points_file, new)
            if 0 <= (done := position - REACH) < len(run):
                _write_image(images_file, done + 1, numbers[cameras[done]], views[done], *tracker.observations())
        dense = _write_dense(points_file, run, options, points)
        points_file.seek(0)
        points_file.write(struct.pack("<Q", points + dense))
    _write_cameras(model / "cameras.bin", list(numbers))  # last, so that an export that fails leaves the earlier model
    if points < FEW and run.tracks is None:  # else they were just refined
        logger.warning(
            "thin: %d points of the COLMAP model are seen in three of its %d pictures, too few to refine it; %d more are there "
            "to start splats from", points, len(run), dense,
        )  # fmt: skip


def _write_cameras(path: Path, cameras: list[Camera]) -> None:
    """Write cameras.bin: each distinct camera, numbered from 1."""
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(cameras)))
        for number, lens in enumerate(cameras, start=1):
            assert lens.size is not None
            model, distortion = _model(lens)
            values = (*lens.focal, *(place + 0.5 for place in lens.centre), *distortion)
            file.write(struct.pack(f"<iiQQ{len(values)}d", number, model, *lens.size, *values))


def _model(lens: Camera) -> tuple[int, tuple[float, ...]]:
    """The simplest COLMAP model that represents the lens, and its distortion."""
    if lens.kind == "fisheye":
        return OPENCV_FISHEYE, lens.distortion
    if lens.kind == "pinhole":
        return PINHOLE, ()
    return (FULL_OPENCV, lens.distortion) if any(lens.distortion[4:]) else (OPENCV, lens.distortion[:4])


def _write_image(file: BinaryIO, number: int, camera: int, view: View, pixels: np.ndarray, points: np.ndarray) -> None:
    """Write one image of images.bin with its observations."""
    quaternion = Rotation.from_matrix(view.cam_from_world[:, :3]).as_quat(canonical=True, scalar_first=True)
    file.write(struct.pack("<i7di", number, *quaternion, *view.cam_from_world[:, 3], camera))
    file.write(view.name.encode() + b"\0")
    observations = np.zeros(len(pixels), [("xy", "<f8", 2), ("point", "<i8")])
    observations["xy"], observations["point"] = view.from_model(pixels), points
    file.write(struct.pack("<Q", len(pixels)))
    file.write(observations.tobytes())


def _write_points(file: BinaryIO, new: NewPoints) -> None:
    """Write points of points3D.bin with their tracks; the error −1 means "not computed"."""
    for number, position, colour, track in zip(new.numbers, new.positions, new.colours, new.tracks, strict=True):
        file.write(struct.pack("<Q3d3BdQ", number, *position, *colour, -1.0, len(track)))
        file.write((track + (1, 0)).astype("<i4").tobytes())  # images are numbered from 1, observations from 0


def _write_dense(file: BinaryIO, run: SavedRun, options: ExportOptions, before: int) -> int:
    """Write points of the fused cloud, sampled at random (reproducibly), numbered after those `before`."""
    if options.dense == 0:
        return 0
    try:
        points, colours = run.cloud(options).cloud()
    except ValueError:  # no pixel becomes a point
        return 0
    count = min(options.dense, len(points))
    chosen = np.sort(np.random.default_rng(0).choice(len(points), count, replace=False))
    fields = [("number", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("views", "<u8")]
    records = np.zeros(count, fields)
    records["number"], records["error"] = before + 1 + np.arange(count), -1.0
    records["xyz"], records["rgb"] = points[chosen], colours[chosen]
    file.write(records.tobytes())
    return count
