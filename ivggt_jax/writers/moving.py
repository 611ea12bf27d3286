"""`moving/%06d.ply`: what moves, a cloud a frame, named by its index; its header has the frame and, in seconds, its time."""

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
    """Writes a file for every frame, of no points where nothing moves. Points are not fused: the next frame has others."""

    name = "moving"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._files = NumberedFiles(out / "moving", ".ply", frames)
        self._options = options

    def write(self, result: Result) -> None:
        """Writes the frame's file. Raises ValueError where nobody told what moves."""
        points, frame = required(result.points, "moving/", "depth or points"), result.frame
        if result.moving is None:
            raise ValueError("moving/ is of a run that told what moves: run ivggt with --moving separate")
        keep = point_mask(replace(result, frame=replace(frame, mask=result.moving)), self._options)
        comments = [f"frame {frame.index}", *([] if frame.timestamp is None else [f"time {frame.timestamp!r}"])]
        write_ply(self._files.path(frame.index), points[keep], frame.image[keep], comments)

    def close(self) -> None:
        """Nothing is left to do: every file is complete."""
