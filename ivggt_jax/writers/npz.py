"""`frames/%06d.npz`: everything known about a frame, one compressed NumPy file each, named by its index.

Arrays as in `Result`, if present: image, cam_from_world, intrinsics, depth, depth_confidence, points, points_confidence, tracks,
visibility, mask, moving. Then the frame's index, name, timestamp (NaN if the source has none), original_size, scale and offset.
If present, the path of the image file, the levels of its 16-bit grey, and the calibration: camera_kind, camera (focal lengths,
centre and distortion of the original picture, `cameras.models`), camera_size, and camera_focal (of the saved image). Later
exports use only these files, and the original images if they still exist (`saved_run`).
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.cameras.known import KnownCamera
from ivggt_jax.cameras.models import COEFFICIENTS, Camera
from ivggt_jax.writers.files import NumberedFiles, replacing
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer

HALVED = ("depth", "depth_confidence", "points_confidence")
"""Fields that --frames-dtype applies to. Not points: far from the world's origin, float16 has steps of decimetres."""
DENSE = (*HALVED, "points")
"""Fields with a value for every pixel."""
OPTIONAL = (*DENSE, "tracks", "visibility")
"""Fields of a Result that may be missing."""


class NpzWriter(Writer):
    """Writes one compressed file for every frame."""

    name = "npz"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._files = NumberedFiles(out / "frames", ".npz", frames)
        self._dtype = np.dtype(options.frames_dtype or "float32")

    def write(self, result: Result) -> None:
        """Write the frame's file."""
        arrays = _arrays(result)
        limit = np.finfo(self._dtype).max
        for name in HALVED:
            if name in arrays:
                arrays[name] = np.clip(arrays[name], -limit, limit).astype(self._dtype)
        # Level 1: a fifth larger than NumPy's level 6, but several times faster.
        with (
            replacing(self._files.path(result.frame.index)) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            for name, array in arrays.items():
                # A fixed date, so that equal results give equal files.
                entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(entry, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)

    def close(self) -> None:
        """Nothing to do: every file is complete."""


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
        "moving": result.moving,
        "path": None if frame.path is None else np.str_(frame.path.absolute()),
        "levels": None if frame.levels is None else np.array(frame.levels, np.float64),
        **({} if frame.camera is None else camera_arrays(frame.camera)),
    }
    arrays |= {name: getattr(result, name) for name in OPTIONAL}
    return {name: array for name, array in arrays.items() if array is not None}


def camera_arrays(camera: KnownCamera) -> dict[str, Any]:
    """A calibration as named arrays; `camera_of` reads them back."""
    lens = camera.original
    return {
        "camera_kind": np.str_(lens.kind),
        "camera": np.array((*lens.focal, *lens.centre, *lens.distortion), np.float64),
        "camera_size": np.array(lens.size, np.int64),
        "camera_focal": np.array(camera.focal, np.float64),
    }


def camera_of(arrays: Mapping[str, np.ndarray]) -> KnownCamera | None:
    """The calibration in a file's arrays; None if there is none. Raises ValueError or KeyError when it is invalid."""
    if "camera_kind" not in arrays:
        return None
    kind, numbers = str(arrays["camera_kind"]), arrays["camera"].tolist()
    size, focal = arrays["camera_size"].tolist(), arrays["camera_focal"].tolist()
    if kind not in COEFFICIENTS or len(numbers) != 4 + COEFFICIENTS[kind] or len(size) != 2 or not min(focal) > 0:
        raise ValueError("its calibration is none")
    lens = Camera(kind, tuple(numbers[:2]), tuple(numbers[2:4]), tuple(numbers[4:]), tuple(size))  # type: ignore[arg-type]
    return KnownCamera(lens, tuple(focal))
