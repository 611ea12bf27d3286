"""How large a cache fits: the default budget, what the free memory holds, or what a limit leaves."""

import dataclasses
import re
from bisect import bisect_right

import jax

from ivggt_jax.config import CacheConfig, ModelConfig
from ivggt_jax.model.parameters import Model, abstract_params, compute_dtypes, flatten
from ivggt_jax.stream import init_stream

SHARE_OF_MEMORY = 0.6
"""Of the free memory that a stream may take: weights lie there already, activations and the system need the rest."""
ACTIVATIONS = 3000
"""Bytes for each pixel of a frame that a step needs besides: 2,650 were counted for the full model (docs/design.md)."""
UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_memory(text: str) -> int:
    """Bytes of "8GB", "7.5GiB", "500MB". Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB|MiB|GiB)", text)
    if match is None or not float(match[1]):
        raise ValueError(f"an amount of memory is like 8GB, 7.5GiB or 500MB, not {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def weights_bytes(config: ModelConfig, trunk: str | None) -> int:
    """Bytes of a model's parameters with its trunk in a type; None: what this device gets."""
    shapes = flatten(abstract_params(config))
    dtypes = compute_dtypes(shapes, trunk)
    return sum(x.size * dtypes[path].itemsize for path, x in shapes.items())


def stream_bytes(model: Model, cache: CacheConfig, height: int, width: int) -> int:
    """Bytes of a stream's buffers but for the tracker's window, without making them. The model's parameters may be abstract."""
    heads = [head for head in model.heads if head != "tracks"]
    state = jax.eval_shape(lambda: init_stream(model, cache, height=height, width=width, heads=heads))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def fitting_cache(model: Model, cache: CacheConfig, height: int, width: int, room: float) -> CacheConfig:
    """The cache with its budget lowered, where needed, to what fits `room` bytes.

    It is never lowered below what one frame in each layer needs.
    """
    assert cache.total_budget is not None
    if stream_bytes(model, cache, height, width) <= room:
        return cache
    budgets = range(model.config.tokens_per_frame(height, width) * model.config.depth, cache.total_budget)

    def needed(budget: int) -> int:
        return stream_bytes(model, dataclasses.replace(cache, total_budget=budget), height, width)

    fitting = bisect_right(budgets, room, key=needed)
    return dataclasses.replace(cache, total_budget=budgets[max(0, fitting - 1)])


def limited_cache(model: Model, cache: CacheConfig, height: int, width: int, limit: int, fixed: bool) -> CacheConfig:
    """The cache that keeps weights, stream and a step's activations within `limit` bytes, int8 before fewer tokens.

    `fixed`: the budget is the user's and stays. Raises ValueError when even the least does not fit.
    """
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(model.params))
    activations = ACTIVATIONS * height * width
    room = limit - weights - activations
    if stream_bytes(model, cache, height, width) <= room:
        return cache
    small = dataclasses.replace(cache, dtype="int8")
    if not fixed:
        small = fitting_cache(model, small, height, width, room)
    if (needed := stream_bytes(model, small, height, width)) > room:
        raise ValueError(
            f"{limit / 1e9:.2f} GB are too little: weights take {weights / 1e9:.2f}, a frame of {width}×{height} about "
            f"{activations / 1e9:.2f}, and an int8 cache of {small.total_budget:,} tokens {needed / 1e9:.2f} GB"
        )
    return small
