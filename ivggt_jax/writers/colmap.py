"""`sparse/0/`: a COLMAP model (cameras.bin, images.bin, points3D.bin) beside the `images/` that it refers to.

Camera-from-world, quaternion wxyz, the corner of the first pixel at (0, 0), PINHOLE cameras; points with tracks of at
least three views (`tracks`), and after them points of the fused cloud, without tracks, to start splats from. https://colmap.github.io/format.html#binary-file-format
"""

import logging
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from scipy.spatial.transform import Rotation

from ivggt_jax.writers.files import replacing
from ivggt_jax.writers.images import Pictures, View, shared_intrinsics
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.tracks import REACH, NewPoints, Tracker
from ivggt_jax.writers.writer import ExportOptions

logger = logging.getLogger(__name__)

FEW = 100
"""Tracked points under which a model is thin."""
PINHOLE = 1
"""COLMAP's number of the camera model with fx, fy, cx, cy."""


def export_colmap(run: SavedRun, out: Path, options: ExportOptions) -> None:
    """Writes `sparse/0/` and `images/` into the folder `out`, frame by frame.

    Images are numbered from 1 in the order of the run. Raises ValueError for a run without depth, WriteError when the
    disk is full.
    """
    model = out / "sparse" / "0"
    pictures = Pictures(out / "images", options.images)
    views = [pictures.place(result) for result in run.cameras()]
    pictures.check()
    _write_cameras(model / "cameras.bin", views, options.shared_camera)
    tracker = Tracker(options)
    points = 0
    with replacing(model / "points3D.bin") as points_file, replacing(model / "images.bin") as images_file:
        points_file.write(struct.pack("<Q", 0))  # the number of points, known at the end
        images_file.write(struct.pack("<Q", len(run)))
        for position in range(-REACH, len(run) + REACH):
            if 0 <= position + REACH < len(run):
                tracker.feed(run[position + REACH])
            if 0 <= position < len(run):
                new = tracker.points_of(position)
                points += len(new.numbers)
                _write_points(points_file, new)
            if 0 <= (done := position - REACH) < len(run):
                camera = 1 if options.shared_camera else done + 1
                _write_image(images_file, done + 1, camera, views[done], *tracker.observations())
        dense = _write_dense(points_file, run, options, points)
        points_file.seek(0)
        points_file.write(struct.pack("<Q", points + dense))
    if points < FEW:
        logger.warning(
            "thin: %d points of the COLMAP model are seen in three of its %d pictures, too few to refine it; %d more are there "
            "to start splats from", points, len(run), dense,
        )  # fmt: skip


def _write_cameras(path: Path, views: list[View], shared: bool) -> None:
    """cameras.bin: one camera a view, or one for all."""
    cameras = [(view.size, view.intrinsics) for view in views]
    if shared:
        cameras = [(views[0].size, shared_intrinsics(views))]
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(cameras)))
        for number, ((width, height), k) in enumerate(cameras, start=1):
            file.write(struct.pack("<iiQQ4d", number, PINHOLE, width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2]))


def _write_image(file: BinaryIO, number: int, camera: int, view: View, pixels: np.ndarray, points: np.ndarray) -> None:
    """One image of images.bin with its observations."""
    quaternion = Rotation.from_matrix(view.cam_from_world[:, :3]).as_quat(canonical=True, scalar_first=True)
    file.write(struct.pack("<i7di", number, *quaternion, *view.cam_from_world[:, 3], camera))
    file.write(view.name.encode() + b"\0")
    observations = np.zeros(len(pixels), [("xy", "<f8", 2), ("point", "<i8")])
    observations["xy"], observations["point"] = view.from_model(pixels), points
    file.write(struct.pack("<Q", len(pixels)))
    file.write(observations.tobytes())


def _write_points(file: BinaryIO, new: NewPoints) -> None:
    """Points of points3D.bin with their tracks; the error −1 says that it was not computed."""
    for number, position, colour, track in zip(new.numbers, new.positions, new.colours, new.tracks, strict=True):
        file.write(struct.pack("<Q3d3BdQ", number, *position, *colour, -1.0, len(track)))
        file.write((track + (1, 0)).astype("<i4").tobytes())  # images are numbered from 1, observations from 0


def _write_dense(file: BinaryIO, run: SavedRun, options: ExportOptions, before: int) -> int:
    """Points of the fused cloud, drawn from it at random (the same ones each time), numbered after those `before`."""
    if options.dense == 0:
        return 0
    try:
        points, colours = run.cloud(options).cloud()
    except ValueError:  # no pixel makes a point
        return 0
    count = min(options.dense, len(points))
    chosen = np.sort(np.random.default_rng(0).choice(len(points), count, replace=False))
    fields = [("number", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("views", "<u8")]
    records = np.zeros(count, fields)
    records["number"], records["error"] = before + 1 + np.arange(count), -1.0
    records["xyz"], records["rgb"] = points[chosen], colours[chosen]
    file.write(records.tobytes())
    return count
