"""KITTI (Geiger et al., IJRR 2013): driving, in two layouts: laser depth (Uhrig et al., 3DV 2017), and odometry."""

from functools import partial
from pathlib import Path

import numpy as np

from ivggt_jax.evaluate.datasets.files import images_in, matched, number, read_png_depth, without_damage
from ivggt_jax.evaluate.datasets.sequence import ReadOptions, Sequence
from ivggt_jax.trajectories.tables import poses_from_rows, read_table

DEPTH_LAYOUT = "depth_selection/val_selection_cropped/{image_gathered,groundtruth_depth_gathered}/<sequence>/*.png"
ODOMETRY_LAYOUT = "sequences/00/{image_2/000000.png,calib.txt} and poses/00.txt"


def find_depth(root: Path, options: ReadOptions) -> dict[str, Path]:
    """Folders of the depth selection's images by name."""
    folder = root / "depth_selection" / "val_selection_cropped" / "image_gathered"
    return {path.name: path for path in sorted(folder.glob("*")) if path.is_dir()}


def read_depth(name: str, folder: Path, options: ReadOptions) -> Sequence:
    """One sequence of the depth selection: laser depth at some of the pixels."""
    images = images_in(folder)
    truth = folder.parent.parent / "groundtruth_depth_gathered" / name
    depths, problems = matched(images, truth.glob("*.png"), "depth")
    return without_damage(
        Sequence(
            dataset="kitti",
            name=name,
            images=images,
            depths=depths,
            read_depth=partial(read_png_depth, units_per_metre=256),
            problems=problems,
        )
    )


def find_odometry(root: Path, options: ReadOptions) -> dict[str, Path]:
    """Folders of the odometry sequences with true poses, by name."""
    return {path.stem: root / "sequences" / path.stem for path in sorted((root / "poses").glob("*.txt"))}


def read_odometry(name: str, folder: Path, options: ReadOptions) -> Sequence:
    """One odometry sequence: the left colour camera; frame i has the i-th pose.

    Poses on disk are of the left grey camera; the calibration's baseline converts them to the colour camera. Raises ValueError
    when the calibration is damaged, or an image has no pose.
    """
    images = images_in(folder / "image_2")
    table = folder.parent.parent / "poses" / f"{name}.txt"
    rows, pose_problems = read_table(table, 12)
    index = np.array([number(path) for path in images])
    if index.max() >= len(rows):
        raise ValueError(f"{table} has {len(rows)} rows, but there is an image {index.max():06d}")
    intrinsics, offset = _colour_camera(folder / "calib.txt")
    poses = poses_from_rows(rows)[index]
    poses[..., 3] -= poses[..., :3] @ offset
    return without_damage(
        Sequence(
            dataset="kitti_odometry",
            name=name,
            images=images,
            world_from_cam=poses,
            intrinsics=np.tile(intrinsics, (len(images), 1, 1)),
            problems=pose_problems,
        )
    )


def _colour_camera(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics [3, 3] of the left colour camera, and the translation [3] from the grey camera's frame to its own."""
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, values = line.partition(":")
        if name.strip() == "P2" and len(values.split()) == 12:
            projection = np.array(values.split(), np.float64).reshape(3, 4)
            return projection[:, :3], np.linalg.solve(projection[:, :3], projection[:, 3])
    raise ValueError(f"{path} has no line P2 of 12 numbers")
