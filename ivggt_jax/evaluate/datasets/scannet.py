"""ScanNet (Dai et al., CVPR 2017): rooms scanned by hand, with poses from bundle adjustment."""

from pathlib import Path

import numpy as np

from ivggt_jax.evaluate.datasets.files import images_in, matched, without_damage
from ivggt_jax.evaluate.datasets.sequence import ReadOptions, Sequence
from ivggt_jax.evaluate.datasets.tum import suffix
from ivggt_jax.trajectories.tables import poses_from_rows, read_pose_files, read_table

LAYOUT = "<scene>/color/0.jpg and <scene>/pose/0.txt, or a subset's <scene>/color_<N>/*.jpg and <scene>/pose_<N>.txt"


def find(root: Path, options: ReadOptions) -> dict[str, Path]:
    """Folders of the scenes by name."""
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/color{suffix(options)}"))}


def read(name: str, folder: Path, options: ReadOptions) -> Sequence:
    """One scene. Poses written as -inf, where tracking was lost, are unknown.

    Raises ValueError when a subset's table does not have a row for each image.
    """
    images = images_in(folder / f"color{suffix(options)}")
    if options.subset is None:
        files, file_problems = matched(images, (folder / "pose").glob("*.txt"), "pose")
        poses, row_problems = read_pose_files(files)
    else:
        table = folder / f"pose_{options.subset}.txt"
        rows, row_problems = read_table(table, 12, 16)
        poses, file_problems = poses_from_rows(rows), ()
        if len(poses) != len(images):
            raise ValueError(f"{table} has {len(poses)} rows for {len(images)} images")
    return without_damage(
        Sequence(
            dataset="scannet",
            name=name,
            images=images,
            world_from_cam=poses,
            intrinsics=_intrinsics(folder, len(images)),
            problems=(*file_problems, *row_problems),
        )
    )


def _intrinsics(folder: Path, frames: int) -> np.ndarray | None:
    path = folder / "intrinsic" / "intrinsic_color.txt"
    if not path.is_file():
        return None
    return np.tile(read_table(path, 4)[0][:3, :3], (frames, 1, 1))
