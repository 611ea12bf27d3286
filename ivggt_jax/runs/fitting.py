"""How large a cache fits: the default budget, what the free memory holds, or what a limit leaves."""

import dataclasses
import re
from bisect import bisect_right
from typing import Any

import jax
import numpy as np

from ivggt_jax.config import CacheConfig
from ivggt_jax.model.parameters import Model
from ivggt_jax.streaming.steps import init_stream

SHARE_OF_MEMORY = 0.6
"""Of the free memory that a stream may take: weights lie there already, activations and the system need the rest."""
ACTIVATIONS = 3000
"""Bytes for each pixel of a frame that a step needs besides: 2,650 were counted for the full model (docs/design.md)."""
SHARE_OF_FURTHER_FRAMES = 0.25
"""Of that, for each further frame of a pass: 350, 520, 936 and 1,226 MB were counted for 1, 2, 4 and 8 of 518×392 pixels."""
POINTS = 64
"""Tracked points that are counted; they take next to nothing beside the maps that they are looked for in."""
UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_memory(text: str) -> int:
    """Bytes of "8GB", "7.5GiB", "500MB". Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB|MiB|GiB)", text)
    if match is None or not float(match[1]):
        raise ValueError(f"an amount of memory is like 8GB, 7.5GiB or 500MB, not {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def weights_bytes(model: Model) -> int:
    """Bytes of a model's parameters, which may be abstract."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(model.params))


def stream_bytes(model: Model, cache: CacheConfig, height: int, width: int) -> int:
    """Bytes of the buffers of a stream with all heads of the model, whose parameters may be abstract; nothing is made."""
    options: dict[str, Any] = {"height": height, "width": width, "heads": model.heads}
    if "tracks" in model.heads:
        options["query_points"] = np.zeros((1, POINTS, 2))
    state = jax.eval_shape(lambda: init_stream(model, cache, **options))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def step_bytes(cache: CacheConfig, height: int, width: int) -> int:
    """Bytes that a step takes beside weights and stream, estimated for the full model."""
    return int(ACTIVATIONS * height * width * (1 + SHARE_OF_FURTHER_FRAMES * (cache.frames_per_step - 1)))


def fitting_cache(model: Model, cache: CacheConfig, height: int, width: int, room: float) -> CacheConfig:
    """The cache with its budget lowered, where needed, to what fits `room` bytes.

    It is never lowered below what the anchor frames, at least one, need in each layer.
    """
    assert cache.total_budget is not None
    if stream_bytes(model, cache, height, width) <= room:
        return cache
    least = max(cache.anchor_frames, 1) * model.config.tokens_per_frame(height, width) * model.config.depth
    budgets = range(least, cache.total_budget + 1)

    def needed(budget: int) -> int:
        return stream_bytes(model, dataclasses.replace(cache, total_budget=budget), height, width)

    fitting = bisect_right(budgets, room, key=needed)
    return dataclasses.replace(cache, total_budget=budgets[max(0, fitting - 1)])


def limited_cache(model: Model, cache: CacheConfig, height: int, width: int, limit: int, fixed: bool) -> CacheConfig:
    """The cache that keeps weights, stream and a step's activations within `limit` bytes, int8 before fewer tokens.

    `fixed`: the budget is the user's and stays. Raises ValueError when even the least does not fit.
    """
    weights = weights_bytes(model)
    activations = step_bytes(cache, height, width)
    room = limit - weights - activations
    if stream_bytes(model, cache, height, width) <= room:
        return cache
    small = dataclasses.replace(cache, dtype="int8")
    if not fixed:
        small = fitting_cache(model, small, height, width, room)
    if (needed := stream_bytes(model, small, height, width)) > room:
        raise ValueError(
            f"{limit / 1e9:.2f} GB are too little: weights take {weights / 1e9:.2f}, a step at {width}×{height} about "
            f"{activations / 1e9:.2f}, and an int8 cache of {small.total_budget:,} tokens {needed / 1e9:.2f} GB"
        )
    return small
