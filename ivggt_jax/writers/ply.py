"""`points.ply`: the fused point cloud; binary little-endian, xyz float32 and rgb uint8, in the first camera's frame."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.writers.files import replacing
from ivggt_jax.writers.fusion import VoxelGrid
from ivggt_jax.writers.pixels import point_mask
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer, required

logger = logging.getLogger(__name__)

FEW = 100
"""Number of points below which a cloud is thin."""


class PlyWriter(Writer):
    """Fuses every frame's confident points, and rewrites the file after frames 1, 2, 4, 8, … and at the end.

    So a kill leaves the cloud of at least half of the frames, and the cost of writing per frame does not grow with the run.
    """

    name = "ply"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._path = out / "points.ply"
        self._options = options
        self._frames = frames
        self._grid = VoxelGrid(options.voxel, options.max_points)
        if frames:
            self._grid.restore(state)
        else:
            self._path.unlink(missing_ok=True)

    def write(self, result: Result) -> None:
        """Add the frame's points; write the file if the number of frames is a power of two."""
        _add(self._grid, result, self._options)
        self._frames += 1
        if self._frames & (self._frames - 1) == 0 and len(self._grid):
            write_ply(self._path, *self._grid.cloud())

    def state(self) -> dict[str, np.ndarray]:
        """The cloud with its counts."""
        return self._grid.state()

    def record(self) -> dict[str, Any]:
        """Size of the cloud and of its voxels."""
        return {"points": len(self._grid), "voxel": self._grid.voxel}

    def close(self) -> None:
        """Write the file. Raises ValueError when frames were written but none of their pixels became a point."""
        if self._frames == 0:
            return
        _check_not_empty(self._grid, self._path.name, self._frames)
        write_ply(self._path, *self._grid.cloud())


def write_ply(path: Path, points: np.ndarray, colours: np.ndarray, comments: Sequence[str] = ()) -> None:
    """Write points [N, 3] and colours uint8 [N, 3] as binary PLY, atomically. Raises WriteError when the disk is full.

    comments: lines for its header.
    """
    vertices = np.zeros(len(points), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    vertices["xyz"], vertices["rgb"] = points, colours
    properties = [f"property float {axis}" for axis in "xyz"]
    properties += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    notes = [f"comment {text}" for text in comments]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        *notes,
        f"element vertex {len(points)}",
        *properties,
        "end_header",
        "",
    ]
    with replacing(path) as file:
        file.write("\n".join(lines).encode())
        file.write(vertices.tobytes())


def fuse(results: Iterable[Result], options: ExportOptions) -> VoxelGrid:
    """The cloud of all results, fused as for `points.ply`. Raises ValueError when empty."""
    grid = VoxelGrid(options.voxel, options.max_points)
    frames = 0
    for result in results:
        _add(grid, result, options)
        frames += 1
    _check_not_empty(grid, "the cloud", frames)
    return grid


def _add(grid: VoxelGrid, result: Result, options: ExportOptions) -> None:
    points = required(result.points, "a point cloud", "depth or points")
    keep = point_mask(result, options)
    grid.add(points[keep], result.frame.image[keep])


def _check_not_empty(grid: VoxelGrid, name: object, frames: int) -> None:
    if len(grid) == 0:
        raise ValueError(
            f"{name} would have no points: no pixel of {frames} frames is finite, inside the masks and confident "
            "enough; lower --confidence or check --masks"
        )
    if len(grid) < FEW:
        logger.warning("thin: %s has %d points of %d frames", name, len(grid), frames)
