"""NRGBD (Azinović et al., "Neural RGB-D surface reconstruction", CVPR 2022): rendered rooms with exact depth and poses."""

from functools import partial
from pathlib import Path

import numpy as np

from ivggt_jax.evaluate.datasets.files import (
    images_in,
    intrinsics_of_640,
    matched,
    number,
    read_png_depth,
    without_damage,
)
from ivggt_jax.evaluate.datasets.sequence import ReadOptions, Sequence
from ivggt_jax.trajectories.tables import poses_from_rows, read_table

LAYOUT = "<scene>/images/img0.png, <scene>/depth/depth0.png and <scene>/poses.txt"
FOCAL = 554.2562584220408


def find(root: Path, options: ReadOptions) -> dict[str, Path]:
    """Folders of the scenes by name."""
    return {path.parent.name: path.parent for path in sorted(root.glob("*/images"))}


def read(name: str, folder: Path, options: ReadOptions) -> Sequence:
    """One scene. Image i has the i-th pose, on disk in OpenGL axes; poses written as nan are unknown."""
    images = images_in(folder / "images")
    depths, depth_problems = matched(images, (folder / "depth").glob("*.png"), "depth")
    rows, row_problems = read_table(folder / "poses.txt", 4)
    if len(rows) % 4:
        raise ValueError(f"{folder / 'poses.txt'} has {len(rows)} rows, which is not four for each frame")
    matrices = rows.reshape(-1, 4, 4)[:, :3].copy()
    matrices[..., 1:3] *= -1  # OpenGL: y up, z backward
    known = poses_from_rows(matrices.reshape(-1, 12))
    index = np.array([number(path) for path in images])
    poses = np.full((len(images), 3, 4), np.nan)
    poses[index < len(known)] = known[index[index < len(known)]]
    beyond = tuple(f"{path} has no pose" for path, i in zip(images, index, strict=True) if i >= len(known))
    return without_damage(
        Sequence(
            dataset="nrgbd",
            name=name,
            images=images,
            depths=depths,
            read_depth=partial(read_png_depth, units_per_metre=1000, largest=10),
            world_from_cam=poses,
            intrinsics=intrinsics_of_640(FOCAL, images),
            problems=(*depth_problems, *row_problems, *beyond),
        )
    )
