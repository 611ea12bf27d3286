"""The weights that come with the package: their size, and that they know rooms which no training saw."""

from pathlib import Path

import numpy as np
import pytest

import ivggt_jax
from ivggt_jax import CacheConfig, ModelConfig, load
from ivggt_jax.evaluate.records import measures, run_walks
from ivggt_jax.evaluate.walks import HELD_OUT_SEED, Walk
from ivggt_jax.model.parameters import flatten
from ivggt_jax.weights.loading import find_config

FRAMES = 100
BOUNDED = CacheConfig(total_budget=6 * 16 * 53, max_frames=FRAMES)
"""Sixteen frames a layer, so that most of what was seen is forgotten."""


def test_they_are_small_and_of_the_demos_shape() -> None:
    """At most 12 M parameters and 25 MB."""
    folder = Path(ivggt_jax.__file__).parent / "demo"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 25e6
    assert find_config("demo") == ModelConfig.demo()
    assert sum(x.size for x in flatten(load("demo").params).values()) <= 12e6


@pytest.mark.slow
def test_they_know_rooms() -> None:
    """Two held-out rooms in bounded memory: depth twice as good as the best constant's, the path's error below 15 % of its length.

    A camera that stands still has more than 20 %.
    """
    walks = [Walk("loop", HELD_OUT_SEED + seed, 84, 112) for seed in (1, 2)]
    for record in run_walks(load("demo"), BOUNDED, walks, FRAMES):
        assert np.mean(record.depth_error) < 0.5 * np.mean(record.constant_depth_error)
        assert measures(record, FRAMES)["path_error_percent"] < 15
