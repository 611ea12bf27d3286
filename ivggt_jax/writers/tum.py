"""`trajectory.txt`: the camera's path in the TUM format.

One line per frame, `timestamp tx ty tz qx qy qz qw`: world_from_cam, so tx ty tz is the camera's position. The timestamp is in
seconds if the source has times, else it is the frame's index. https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ivggt_jax.writers.files import LineFile
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer


class TumWriter(Writer):
    """Appends a line to `trajectory.txt` for every frame."""

    name = "tum"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        header = "# timestamp tx ty tz qx qy qz qw (world from camera, OpenCV axes; unit: run.json, or alignment.json beside it)"
        self._file = LineFile(out / "trajectory.txt", frames, header)

    def write(self, result: Result) -> None:
        """Append the frame's line."""
        frame, world_from_cam = result.frame, result.world_from_cam
        time = f"{frame.index}" if frame.timestamp is None else f"{frame.timestamp:.6f}"
        quaternion = Rotation.from_matrix(world_from_cam[:, :3]).as_quat(canonical=True)
        self._file.append(" ".join((time, *(f"{value:.9g}" for value in (*world_from_cam[:, 3], *quaternion)))))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
