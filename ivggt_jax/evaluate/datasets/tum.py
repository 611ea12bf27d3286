"""TUM RGB-D (Sturm et al., IROS 2012) and recordings in its layout, such as Bonn (Palazzolo et al., IROS 2019).

A recording has `rgb/`, `depth/` and `groundtruth.txt`; a published subset of N frames is next to them as `rgb_N/`, `depth_N/` and
`groundtruth_N.txt`.
"""

from functools import partial
from pathlib import Path

import numpy as np

from ivggt_jax.evaluate.datasets.files import images_in, matched, numbers, read_png_depth, without_damage
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

    Each image gets the pose and depth nearest in time, within 0.02 s. Where files are not named by their time, an image gets the
    depth with the same numbers in its name; if no depth has an image's numbers, depths are matched in order, as poses are without
    times. What is matched in order must be equally many. Raises ValueError when it is not, or when there is neither depth nor
    pose.
    """
    images = images_in(folder / f"rgb{suffix(options)}")
    times = times_in_names(images)
    poses: np.ndarray | None = None
    problems: tuple[str, ...] = ()
    trajectory = folder / f"groundtruth{suffix(options)}.txt"
    if trajectory.is_file():
        rows, row_problems = read_table(trajectory, 8)
        row_times = in_seconds(rows[:, 0])
        index = _in_order(images, len(rows), trajectory) if times is None else nearest_in_time(times, row_times)
        poses = np.where((index >= 0)[:, None, None], poses_from_tum(rows)[index], np.nan)
        problems = (*row_problems, *_far(images, index, "pose"))
    depths: tuple[Path | None, ...] | None = None
    depth_folder = folder / f"depth{suffix(options)}"
    if depth_folder.is_dir():
        depths, depth_problems = _depths(images, times, depth_folder)
        problems += depth_problems
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
            problems=problems,
        )
    )


def suffix(options: ReadOptions) -> str:
    """The suffix of a subset's names."""
    return "" if options.subset is None else f"_{options.subset}"


def _depths(
    images: tuple[Path, ...], times: np.ndarray | None, folder: Path
) -> tuple[tuple[Path | None, ...], tuple[str, ...]]:
    """For each image its depth file, or None, and a line for each without: by time, else by number, else in order."""
    files = images_in(folder)
    others = times_in_names(files)
    if times is not None and others is not None:
        index = nearest_in_time(times, others)
        return tuple(files[i] if i >= 0 else None for i in index), _far(images, index, "depth")
    own, their = ({found for path in paths if (found := numbers(path))} for paths in (images, files))
    if own & their:
        return matched(images, files, "depth")
    return tuple(files[i] for i in _in_order(images, len(files), folder)), ()


def _far(images: tuple[Path, ...], index: np.ndarray, what: str) -> tuple[str, ...]:
    return tuple(f"{images[i]} has no {what} within {ASSOCIATION_SECONDS} s" for i in np.flatnonzero(index < 0))


def _in_order(images: tuple[Path, ...], count: int, where: Path) -> np.ndarray:
    if count != len(images):
        raise ValueError(
            f"{where} has {count} entries for {len(images)} images, and names without times cannot tell which"
        )
    return np.arange(count)
