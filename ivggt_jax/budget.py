"""How large a cache fits: the default budget, or what the free memory holds."""

import dataclasses

import jax

from ivggt_jax.config import CacheConfig
from ivggt_jax.model.parameters import Model
from ivggt_jax.stream import init_stream

SHARE_OF_MEMORY = 0.6
"""Of the free memory that a stream may take: weights lie there already, activations and the system need the rest."""


def stream_bytes(model: Model, cache: CacheConfig, height: int, width: int) -> int:
    """Bytes of a stream's buffers, without making them. The model's parameters may be abstract."""
    state = jax.eval_shape(lambda: init_stream(model, cache, height=height, width=width))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def fitting_cache(model: Model, cache: CacheConfig, height: int, width: int, free: int) -> CacheConfig:
    """The cache with its budget lowered, where needed, to what fits a share of `free` bytes.

    It is never lowered below what one frame in each layer needs.
    """
    assert cache.total_budget is not None
    room = SHARE_OF_MEMORY * free
    needed = stream_bytes(model, cache, height, width)
    if needed <= room:
        return cache
    least = model.config.tokens_per_frame(height, width) * model.config.depth
    fixed = stream_bytes(model, dataclasses.replace(cache, total_budget=least), height, width)
    share = max(0.0, room - fixed) / (needed - fixed)
    return dataclasses.replace(cache, total_budget=least + int((cache.total_budget - least) * share))
