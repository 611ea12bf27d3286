"""`frames/%06d.npz`: everything that is known about a frame, one compressed NumPy file each, named by its index.

Arrays as in `Result`: image, cam_from_world, intrinsics, depth, depth_confidence, points, points_confidence, tracks,
visibility, mask (those that there are); and the frame's index, name, timestamp (NaN where the source has none),
original_size, scale and offset; and, where there are any, the path of the image file and the levels of its 16-bit grey.
Later exports are built from these files alone, and from the original images where those are still there (`saved_run`).
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.writers.files import NumberedFiles, replacing
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer

DENSE = ("depth", "depth_confidence", "points", "points_confidence")
"""Fields that --frames-dtype applies to."""
OPTIONAL = (*DENSE, "tracks", "visibility")
"""Fields of a Result that may be missing."""


class NpzWriter(Writer):
    """Writes one compressed file for every frame."""

    name = "npz"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._files = NumberedFiles(out / "frames", ".npz", frames)
        self._dtype = np.dtype(options.frames_dtype or "float32")

    def write(self, result: Result) -> None:
        """Writes the frame's file."""
        arrays = _arrays(result)
        limit = np.finfo(self._dtype).max
        for name in DENSE:
            if name in arrays:
                arrays[name] = np.clip(arrays[name], -limit, limit).astype(self._dtype)
        # Level 1: a fifth larger than NumPy's level 6, and several times faster.
        with (
            replacing(self._files.path(result.frame.index)) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            for name, array in arrays.items():
                # A fixed date, so that equal results are equal files.
                entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(entry, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)

    def close(self) -> None:
        """Nothing is left to do: every file is complete."""


def _arrays(result: Result) -> dict[str, Any]:
    """The arrays of one file, by name."""
    frame = result.frame
    arrays = {
        "image": frame.image,
        "cam_from_world": result.cam_from_world,
        "intrinsics": result.intrinsics,
        "index": np.int64(frame.index),
        "name": np.str_(frame.name),
        "timestamp": np.float64(np.nan if frame.timestamp is None else frame.timestamp),
        "original_size": np.array(frame.fit.original_size, np.int64),
        "scale": np.array(frame.fit.scale, np.float64),
        "offset": np.array(frame.fit.offset, np.float64),
        "mask": frame.mask,
        "path": None if frame.path is None else np.str_(frame.path.absolute()),
        "levels": None if frame.levels is None else np.array(frame.levels, np.float64),
    }
    arrays |= {name: getattr(result, name) for name in OPTIONAL}
    return {name: array for name, array in arrays.items() if array is not None}
