"""Readers of benchmark data sets: each turns a folder layout into `Sequence` records, and skips what is damaged."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ivggt_jax.evaluate.datasets import bonn, kitti, long3d, nrgbd, scannet, seven_scenes, sintel, tum
from ivggt_jax.evaluate.datasets.sequence import PLAIN, ReadOptions, Sequence, Skipped

__all__ = ["DATASETS", "PLAIN", "ReadOptions", "Sequence", "Skipped", "open_dataset"]


@dataclass(frozen=True)
class Dataset:
    """How to read a data set."""

    layout: str
    """Its folder layout, for people."""
    find: Callable[[Path, ReadOptions], dict[str, Path]]
    """Finds the folders of its sequences below a root, by name."""
    read: Callable[[str, Path, ReadOptions], Sequence]
    """Reads one of them. Raises OSError or ValueError when it cannot be used at all."""
    takes: tuple[str, ...] = ()
    """The fields of `ReadOptions` that apply to it."""


DATASETS = {
    "7scenes": Dataset(seven_scenes.LAYOUT, seven_scenes.find, seven_scenes.read, ("registered_depth",)),
    "nrgbd": Dataset(nrgbd.LAYOUT, nrgbd.find, nrgbd.read),
    "sintel": Dataset(sintel.LAYOUT, sintel.find, sintel.read),
    "bonn": Dataset(bonn.LAYOUT, bonn.find, bonn.read, ("subset",)),
    "kitti": Dataset(kitti.DEPTH_LAYOUT, kitti.find_depth, kitti.read_depth),
    "kitti_odometry": Dataset(kitti.ODOMETRY_LAYOUT, kitti.find_odometry, kitti.read_odometry),
    "tum": Dataset(tum.LAYOUT, tum.find, tum.read, ("subset",)),
    "scannet": Dataset(scannet.LAYOUT, scannet.find, scannet.read, ("subset",)),
    "long3d": Dataset(long3d.LAYOUT, long3d.find, long3d.read),
}


def open_dataset(
    name: str, root: Path, only: Collection[str] = (), options: ReadOptions = PLAIN
) -> Iterator[Sequence | Skipped]:
    """The sequences of a data set, or of a root that is one of them; each is read when its turn comes.

    `only` names the sequences to read; empty means all. A sequence that cannot be used is yielded as `Skipped`; damaged parts of
    a sequence are left out and listed in its `problems`. Raises ValueError at once for an unknown data set or sequence, for an
    option that does not apply to the data set, or when the root has none.
    """
    if name not in DATASETS:
        raise ValueError(f"there is no data set {name!r}; known are {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    for option, value in vars(options).items():
        if value != getattr(PLAIN, option) and option not in dataset.takes:
            known = ", ".join(key for key, other in DATASETS.items() if option in other.takes)
            raise ValueError(f"--{option.replace('_', '-')} applies only to {known}: leave it out of --dataset {name}")
    folders = dataset.find(root, options) or _alone(dataset, root.resolve(), options)
    if not folders:
        raise ValueError(f"{root} holds no sequence of {name} (options {options}); its layout is {dataset.layout}")
    if unknown := set(only) - set(folders):
        raise ValueError(f"{root} has no sequence {', '.join(sorted(unknown))}; it has {', '.join(folders)}")
    wanted = {key: folder for key, folder in folders.items() if not only or key in only}
    return (_read(dataset, key, folder, options) for key, folder in wanted.items())


def _alone(dataset: Dataset, folder: Path, options: ReadOptions) -> dict[str, Path]:
    """The sequence, by name, whose folder this is; the data set is looked for in the folders above, in as many as layouts have."""
    above = [found for root in folder.parents[:4] for found in dataset.find(root, options).items()]
    return {name: path for name, path in above if path.resolve() == folder}


def _read(dataset: Dataset, name: str, folder: Path, options: ReadOptions) -> Sequence | Skipped:
    try:
        return dataset.read(name, folder, options)
    except (OSError, ValueError) as error:
        return Skipped(name, str(error))
