"""Readers of labelled datasets, one file each, and the table of their names for the command line."""

from collections.abc import Callable
from pathlib import Path

from ivggt_jax.train.data.datasets.arkitscenes import arkitscenes
from ivggt_jax.train.data.datasets.co3d import co3d
from ivggt_jax.train.data.datasets.scannet import scannet
from ivggt_jax.train.data.datasets.seven_scenes import seven_scenes
from ivggt_jax.train.data.datasets.tum import tum
from ivggt_jax.train.data.scene import Dataset

DATASETS: dict[str, Callable[[Path, str], Dataset]] = {
    "arkitscenes": arkitscenes,
    "co3d": co3d,
    "scannet": scannet,
    "7scenes": seven_scenes,
    "tum": tum,
}
"""Name → reader(root, split), where split is "train" or "test"."""
