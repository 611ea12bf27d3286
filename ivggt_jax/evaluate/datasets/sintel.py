"""MPI Sintel (Butler et al., ECCV 2012): an animated film with exact depth and cameras."""

from pathlib import Path

import numpy as np

from ivggt_jax.evaluate.datasets.files import damage, images_in, matched, without_damage
from ivggt_jax.evaluate.datasets.sequence import ReadOptions, Sequence
from ivggt_jax.trajectories.alignment import inverse

LAYOUT = "training/{final/<sequence>/frame_0001.png, depth/<sequence>/frame_0001.dpt, camdata_left/<sequence>/frame_0001.cam}"

_TAG = 202021.25
"""The float32 that every file of the data set begins with."""


def find(root: Path, options: ReadOptions) -> dict[str, Path]:
    """Folders of the final renderings by name."""
    return {path.name: path for path in sorted((root / "training" / "final").glob("*")) if path.is_dir()}


def read(name: str, folder: Path, options: ReadOptions) -> Sequence:
    """One sequence. Depth is not limited here; the sky is kilometres away, and the protocol excludes it."""
    training = folder.parent.parent
    images = images_in(folder)
    depths, depth_problems = matched(images, (training / "depth" / name).glob("*.dpt"), "depth")
    camera_files, camera_problems = matched(images, (training / "camdata_left" / name).glob("*.cam"), "camera")
    cameras, problems = zip(*(_camera(path) for path in camera_files), strict=True)
    return without_damage(
        Sequence(
            dataset="sintel",
            name=name,
            images=images,
            depths=depths,
            read_depth=read_dpt,
            world_from_cam=np.array([pose for _, pose in cameras]),
            intrinsics=np.array([intrinsics for intrinsics, _ in cameras]),
            problems=(*depth_problems, *camera_problems, *(problem for problem in problems if problem)),
        ),
        check=_dpt_damage,
    )


def read_dpt(path: Path) -> np.ndarray:
    """Depth in metres, float32 [H, W], from Sintel's .dpt. Raises ValueError for a damaged file."""
    data = path.read_bytes()
    if len(data) < 12 or np.frombuffer(data, "<f4", 1)[0] != np.float32(_TAG):
        raise ValueError(f"{path} is not a Sintel depth file")
    width, height = (int(side) for side in np.frombuffer(data, "<i4", 2, offset=4))
    if width <= 0 or height <= 0 or len(data) != 12 + 4 * width * height:
        raise ValueError(f"{path} is cut off: {len(data)} bytes for {width} × {height} pixels")
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width).copy()


def _dpt_damage(path: Path) -> str | None:
    if problem := damage(path):
        return problem
    with path.open("rb") as file:
        head = file.read(12)
    sides = np.frombuffer(head, "<i4", 2, offset=4) if len(head) == 12 else np.zeros(2, np.int32)
    return None if path.stat().st_size == 12 + 4 * int(sides[0]) * int(sides[1]) else f"{path} is cut off"


def _camera(path: Path | None) -> tuple[tuple[np.ndarray, np.ndarray], str | None]:
    """Intrinsics [3, 3] and world_from_cam [3, 4] of a .cam file; for a damaged file NaN, and a line about it."""
    unknown = np.full((3, 3), np.nan), np.full((3, 4), np.nan)
    if path is None:
        return unknown, None
    data = path.read_bytes()
    if len(data) != 4 + 21 * 8 or np.frombuffer(data, "<f4", 1)[0] != np.float32(_TAG):
        return unknown, f"{path} is not a Sintel camera file, or cut off"
    numbers = np.frombuffer(data, "<f8", offset=4)
    return (numbers[:9].reshape(3, 3), inverse(numbers[9:].reshape(3, 4))), None
