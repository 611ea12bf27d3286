"""Bonn RGB-D dynamic (Palazzolo et al., "ReFusion", IROS 2019): people and balloons in front of a moving depth camera."""

from pathlib import Path

from ivggt_jax.evaluate.datasets import tum
from ivggt_jax.evaluate.datasets.sequence import ReadOptions, Sequence

LAYOUT = (
    "rgbd_bonn_<sequence>/{rgb,depth}/<seconds>.png and groundtruth.txt, or all with a subset's _<N> in their names"
)


def find(root: Path, options: ReadOptions) -> dict[str, Path]:
    """Folders of the recordings by name, without the prefix `rgbd_bonn_`."""
    found = tum.find(root, options)
    return {name.removeprefix("rgbd_bonn_"): folder for name, folder in found.items() if name.startswith("rgbd_bonn_")}


def read(name: str, folder: Path, options: ReadOptions) -> Sequence:
    """One recording; see `tum.read`."""
    return tum.read(name, folder, options, dataset="bonn")
