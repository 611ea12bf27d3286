"""Configurations take whole numbers where they count something, and nothing that only looks like one."""

from dataclasses import replace

import numpy as np
import pytest

from ivggt_jax import CacheConfig, ModelConfig
from ivggt_jax.mapping.config import SubmapConfig

COUNTS = {
    CacheConfig: (
        "total_budget",
        "least_budget",
        "anchor_frames",
        "frames_per_step",
        "camera_frames",
        "max_frames",
        "track_window",
    ),
    SubmapConfig: ("frames", "delay", "keyframes", "keyframe_every"),
    ModelConfig: ("image_size", "depth", "register_tokens", "camera_iterations", "track_radius"),
}


@pytest.mark.parametrize("value", [1.5, 4.0, True, "4", np.float64(4), [4]], ids=repr)
def test_counts_are_whole(value: object) -> None:
    for config, names in COUNTS.items():
        for name in names:
            with pytest.raises(ValueError, match=f"{name} must be whole, not"):
                config(**{name: value})


def test_numpys_integers_become_pythons() -> None:
    """So that a configuration of either is the same key, and JSON."""
    cache = CacheConfig(total_budget=np.int64(5000))
    assert type(cache.total_budget) is int and cache == CacheConfig(total_budget=5000)
    assert [type(x) for x in ModelConfig(dpt_layers=tuple(np.array([4, 11, 17, 23]))).dpt_layers] == [int] * 4


@pytest.mark.parametrize("value", [(0, 1, 2, 3.0), (False, True, 2, 3), [0, 1, 2, 3], 3, None], ids=repr)
def test_lists_of_counts_are_tuples_of_whole_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="dpt_layers must be whole, not"):
        ModelConfig(dpt_layers=value)


def test_dense_heads_have_room_for_the_position_embeddings() -> None:
    for wrong in ({"dpt_features": 36}, {"dpt_channels": (8, 8, 8, 6)}):
        with pytest.raises(ValueError, match="dpt_features .* must be a multiple of 8, dpt_channels .* of 4"):
            replace(ModelConfig.tiny(), **wrong)


def test_what_is_no_count_may_be_a_fraction_or_nothing() -> None:
    assert CacheConfig(temperature=1.5, capacity_factor=2, least_budget=None, max_frames=9).capacity_factor == 2
