"""TUM RGB-D: sequence/{rgb,depth}/TIMESTAMP.png and groundtruth.txt, and shortened copies.

A shortened copy has rgb_N, depth_N and groundtruth_N.txt instead. groundtruth lists timestamp, position and quaternion xyzw of
the camera in the world. Depth is in 5,000ths of a metre. Images, depths and poses are matched by time. Pictures of freiburg3 are
undistorted; the others' lens distortion, 5 pixels in the mean, is left. Bonn's recordings have the same layout, but the poses of
a body of markers instead of the camera's.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ivggt_jax.sources.folder import folder_images
from ivggt_jax.sources.image_file import read_image
from ivggt_jax.sources.times import ASSOCIATION_SECONDS, in_seconds, nearest_in_time
from ivggt_jax.train.data.sampling import Sampling
from ivggt_jax.train.data.scene import Dataset, LabelledFrame, Scene, open_scenes, read_depth
from ivggt_jax.trajectories.tables import (
    poses_from_tum,
    read_table,
    times_in_names,
)

CAMERAS = {
    "freiburg1": (517.306408, 516.469215, 318.643040, 255.313989),
    "freiburg2": (520.908620, 521.007327, 325.141442, 249.701764),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}
"""fx, fy, cx, cy for a word in the sequence's name."""


class TumSequence(Scene):
    """One recording. Raises ValueError when its camera is unknown or no image has both depth and pose."""

    def __init__(self, folder: Path):
        self.name = folder.name
        images = next(path for path in sorted(folder.glob("rgb*/")))
        suffix = images.name.removeprefix("rgb")
        camera = next((values for word, values in CAMERAS.items() if word in folder.name), None)
        if camera is None:
            raise ValueError(f"the name must contain one of {', '.join(CAMERAS)}, which tells the camera")
        focal_x, focal_y, centre_x, centre_y = camera
        self._intrinsics = np.array([[focal_x, 0, centre_x], [0, focal_y, centre_y], [0, 0, 1]])
        paths, depths = folder_images(images), folder_images(folder / f"depth{suffix}")
        rows, _ = read_table(folder / f"groundtruth{suffix}.txt", 8)
        times, depth_times, poses = times_in_names(paths), times_in_names(depths), poses_from_tum(rows)
        if times is None or depth_times is None:
            raise ValueError("its pictures and depths are not all named by their times")
        pose = nearest_in_time(times, np.where(np.isfinite(poses).all(axis=(1, 2)), in_seconds(rows[:, 0]), np.nan))
        depth = nearest_in_time(times, depth_times)
        matched = np.flatnonzero((depth >= 0) & (pose >= 0))
        if not len(matched):
            raise ValueError(f"no image has a depth and a pose within {ASSOCIATION_SECONDS} s")
        self._frames = [(paths[i], depths[depth[i]], poses[pose[i]]) for i in matched]

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, position: int) -> LabelledFrame:
        """Read one frame."""
        image, depth, pose = self._frames[position]
        world_from_cam = np.concatenate((pose, [[0, 0, 0, 1]]))
        return LabelledFrame(read_image(image, exif=False), read_depth(depth, 5000), world_from_cam, self._intrinsics)


def tum(root: Path, split: str = "train") -> Dataset:
    """The sequences below `root` for one split; `held_out` makes the splits.

    Raises ValueError when none is usable, or when the test split would be empty because there is only one.
    """
    folders = sorted({path.parent for path in root.glob("*/rgb*/")})
    dataset = open_scenes(f"tum {root}", folders, TumSequence, Sampling(max_interval=15, block=16))
    kept = held_out([scene.name for scene in dataset.scenes])
    scenes = tuple(scene for scene in dataset.scenes if (scene.name in kept) == (split == "test"))
    if not scenes:
        raise ValueError(
            f"{dataset.name}: its only usable sequence, {dataset.scenes[0].name}, is for training, so none is held out for "
            "evaluation: add another"
        )
    return replace(dataset, scenes=scenes)


def held_out(names: Sequence[str]) -> set[str]:
    """The sequences for evaluation: about one in ten, by a hash of their names; of two or more at least one, and never all."""
    hashes = {name: zlib.crc32(name.encode()) for name in names}
    tenth = sum(number < 2**32 / 10 for number in hashes.values())
    return set(sorted(hashes, key=hashes.__getitem__)[: min(max(tenth, 1), len(hashes) - 1)])
