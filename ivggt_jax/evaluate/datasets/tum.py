"""TUM RGB-D (Sturm et al., IROS 2012) and recordings in its layout, such as Bonn (Palazzolo et al., IROS 2019).

A recording has `rgb/`, `depth/` and `groundtruth.txt`; a published subset of N frames is next to them as `rgb_N/`, `depth_N/` and
`groundtruth_N.txt`.
"""

from functools import partial
from pathlib import Path

import numpy as np

from ivggt_jax.evaluate.datasets.files import images_in, read_png_depth, without_damage
from ivggt_jax.evaluate.datasets.sequence import ReadOptions, Sequence
from ivggt_jax.sources.times import ASSOCIATION_SECONDS, in_seconds, nearest_in_time
from ivggt_jax.trajectories.tables import (
    poses_from_tum,
    read_table,
    times_in_names,
)

LAYOUT = "<sequence>/rgb/<seconds>.png, <sequence>/groundtruth.txt, or both with a subset's _<N> in their names"


def find(root: Path, options: ReadOptions) -> dict[str, Path]:
    """Folders of the recordings by name."""
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/rgb{suffix(options)}"))}


def read(name: str, folder: Path, options: ReadOptions, dataset: str = "tum") -> Sequence:
    """One recording.

    Each image gets the pose and depth nearest in time, within 0.02 s. Files that are not named by their time are matched in
    order, and there must be equally many of each. Raises ValueError when there are not, or when there is neither depth nor pose.
    """
    images = images_in(folder / f"rgb{suffix(options)}")
    times = times_in_names(images)
    poses: np.ndarray | None = None
    problems: tuple[str, ...] = ()
    trajectory = folder / f"groundtruth{suffix(options)}.txt"
    if trajectory.is_file():
        rows, problems = read_table(trajectory, 8)
        index = _belonging(times, in_seconds(rows[:, 0]), len(images), str(trajectory))
        poses = np.where((index >= 0)[:, None, None], poses_from_tum(rows)[index], np.nan)
        problems += tuple(f"{images[i]} has no pose within {ASSOCIATION_SECONDS} s" for i in np.flatnonzero(index < 0))
    depths: tuple[Path | None, ...] | None = None
    depth_folder = folder / f"depth{suffix(options)}"
    if depth_folder.is_dir():
        files = images_in(depth_folder)
        index = _belonging(times, times_in_names(files), len(images), str(depth_folder), len(files))
        depths = tuple(files[i] if i >= 0 else None for i in index)
        problems += tuple(f"{images[i]} has no depth within {ASSOCIATION_SECONDS} s" for i in np.flatnonzero(index < 0))
    if poses is None and depths is None:
        raise ValueError(f"{folder} has neither {trajectory.name} nor {depth_folder.name}")
    return without_damage(
        Sequence(
            dataset=dataset,
            name=name,
            images=images,
            depths=depths,
            read_depth=partial(read_png_depth, units_per_metre=5000),
            world_from_cam=poses,
            timestamps=times,
            problems=problems,
        )
    )


def suffix(options: ReadOptions) -> str:
    """The suffix of a subset's names."""
    return "" if options.subset is None else f"_{options.subset}"


def _belonging(
    times: np.ndarray | None, others: np.ndarray | None, frames: int, what: str, count: int | None = None
) -> np.ndarray:
    """For each frame the index of the matching entry, −1 for none: by time, or in order if there are no times."""
    if times is not None and others is not None:
        return nearest_in_time(times, others)
    count = len(others) if others is not None else count
    if count != frames:
        raise ValueError(f"{what} has {count} entries for {frames} images, and names without times cannot tell which")
    return np.arange(frames)
