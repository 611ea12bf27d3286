"""`intrinsics.txt`: focal lengths and principal points in pixels of the original images.

One line per frame, `frame fx fy cx cy width height`: `frame` is the frame's index in the source; width and height are the
original image's (after EXIF orientation). Resize, crop and padding are undone. Pixel (0, 0) is the centre of the first pixel;
COLMAP counts from its corner, so add 0.5 to cx and cy there.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ivggt_jax.writers.files import LineFile
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer


class IntrinsicsWriter(Writer):
    """Appends a line to `intrinsics.txt` for every frame."""

    name = "intrinsics"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        header = "# frame fx fy cx cy width height (original images, undistorted if calibrated)"
        self._file = LineFile(out / "intrinsics.txt", frames, header)

    def write(self, result: Result) -> None:
        """Append the frame's line."""
        k = result.original_intrinsics
        numbers = (f"{value:.9g}" for value in (k[0, 0], k[1, 1], k[0, 2], k[1, 2]))
        width, height = result.frame.fit.original_size
        self._file.append(" ".join((f"{result.frame.index}", *numbers, f"{width}", f"{height}")))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
