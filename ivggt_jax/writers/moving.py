"""`moving/%06d.ply`: moving points, one cloud per frame, named by its index; the header has the frame and its time in seconds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ivggt_jax.writers.files import NumberedFiles
from ivggt_jax.writers.pixels import point_mask
from ivggt_jax.writers.ply import write_ply
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer, required


class MovingWriter(Writer):
    """Writes a file for every frame, empty if nothing moves. Points are not fused, because they move."""

    name = "moving"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._files = NumberedFiles(out / "moving", ".ply", frames)
        self._options = options

    @classmethod
    def check(cls, first: Result) -> None:
        """Raises ValueError when motion was not detected in this run."""
        if first.moving is None:
            raise ValueError("moving/ is of a run that told what moves: run ivggt with --moving separate")

    def write(self, result: Result) -> None:
        """Write the frame's file. Raises ValueError when motion was not detected in this run."""
        points, frame = required(result.points, "moving/", "depth or points"), result.frame
        self.check(result)
        keep = point_mask(replace(result, frame=replace(frame, mask=result.moving)), self._options)
        comments = [f"frame {frame.index}", *([] if frame.timestamp is None else [f"time {frame.timestamp!r}"])]
        write_ply(self._files.path(frame.index), points[keep], frame.image[keep], comments)

    def close(self) -> None:
        """Nothing to do: every file is complete."""
