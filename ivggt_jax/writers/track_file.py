"""`tracks.txt`: positions of the tracked points in every frame, in pixels of the original images.

One line per frame: `frame`, the frame's index in the source, then `x y visibility` of every point, in the same order on every
line. Pixel (0, 0) is the centre of the first pixel. Resize, crop and padding are undone, and a calibrated camera's distortion is
applied. To read it: `np.loadtxt("tracks.txt", ndmin=2)[:, 1:].reshape(frames, points, 3)`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ivggt_jax.writers.files import LineFile
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer, required


class TracksWriter(Writer):
    """Appends a line to `tracks.txt` for every frame."""

    name = "tracks"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._file = LineFile(
            out / "tracks.txt", frames, "# frame, then x y visibility of each point (original images; of 1)"
        )

    def write(self, result: Result) -> None:
        """Append the frame's line. Raises ValueError in a run without tracks."""
        places = result.to_original(required(result.tracks, "tracks.txt", "tracks"))
        seen = np.ones(len(places)) if result.visibility is None else result.visibility
        numbers = np.column_stack((places, seen)).ravel()
        self._file.append(" ".join((f"{result.frame.index}", *(f"{value:.3f}" for value in numbers))))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
