"""`kitti.txt`: the camera's path in the KITTI odometry format.

One line per frame: the 3×4 matrix world_from_cam, row by row. The format has no timestamps; line n is the n-th frame.
https://www.cvlibs.net/datasets/kitti/eval_odometry.php
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ivggt_jax.writers.files import LineFile
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer


class KittiWriter(Writer):
    """Appends a line to `kitti.txt` for every frame."""

    name = "kitti"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._file = LineFile(out / "kitti.txt", frames)

    def write(self, result: Result) -> None:
        """Append the frame's line."""
        self._file.append(" ".join(f"{value:.9e}" for value in result.world_from_cam.ravel()))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
