"""The size of the cache: the default budget, or as much of it as fits in free memory or within a limit."""

import dataclasses
import re
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax
import numpy as np

from ivggt_jax.config import CacheConfig, ModelConfig
from ivggt_jax.model.parameters import Model
from ivggt_jax.runs.command import say
from ivggt_jax.runs.memory import free_memory, gigabytes, mapped_bytes
from ivggt_jax.runs.room import Room, Share
from ivggt_jax.streaming.steps import init_stream

PUBLISHED_BUDGET = CacheConfig().total_budget or 0
"""Tokens, for frames of 518×392 in the published network."""
SHARE_OF_MEMORY = 0.6
"""Share of free memory for a stream, without weights; activations and the system need the rest."""
ACTIVATIONS = 3000
"""Further bytes per pixel of a frame that a step needs: 2,650 were counted for the full model (docs/design.md)."""
SHARE_OF_FURTHER_FRAMES = 0.25
"""Share of that for each further frame of a pass: 350, 520, 936 and 1,226 MB were counted for 1, 2, 4 and 8 of 518×392 pixels."""
PROCESS = 400 * 10**6
"""Least memory in bytes for compiling and running, however small the model: 310 to 370 MB were counted for the demo's."""
POINTS = 64
"""Number of tracked points assumed; they take next to nothing compared with the feature maps they are searched in."""
UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 1 << 20, "GiB": 1 << 30}


def plan_cache(
    model: Model, cache: CacheConfig, height: int, width: int, limit: str | Share | None, fixed: bool
) -> CacheConfig:
    """The cache of a run, planned within the user's `limit` (text), or within free memory or a share of it (None, Share).

    Unless it is `fixed`, the budget is given for the full model at 518×392, and is converted to as many frames of this size.

    `cache.max_frames` is the number of frames, if known, and is rounded up in the result, so that runs of similar length share a
    compiled program. Reductions are reported. Raises ValueError when even the minimum does not fit.
    """
    if not fixed:
        published = cache.total_budget or PUBLISHED_BUDGET
        cache = dataclasses.replace(cache, total_budget=default_budget(model.config, height, width, published))
    if isinstance(limit, str):
        trunk = model.params["aggregator"]["camera_token"].dtype
        bytes_ = parse_memory(limit)
        cache = _of_rounded_length(cache, lambda cache: limited_cache(model, cache, height, width, bytes_, fixed))
        say(f"within {limit}: {trunk} weights, {cache.dtype or trunk} cache of {cache.total_budget:,} tokens")
    elif fixed:
        cache = _of_rounded_length(cache, lambda cache: cache)
    else:
        room = room_beside(model, limit)
        wanted = cache.total_budget
        cache = _of_rounded_length(cache, lambda cache: free_cache(model, cache, height, width, room))
        if cache.total_budget != wanted:
            say(f"cache lowered to {cache.total_budget:,} tokens to fit the free memory; --budget sets it")
    return cache


def room_beside(model: Model, share: Share | None) -> Room:
    """Free memory beside a loaded model's weights, within this process's share if there is one."""
    mapped = mapped_bytes(jax.tree.leaves(model.params))
    rooms = [free_memory(mapped)]
    if share is not None:
        rooms.append(share.beside(weights_bytes(model), mapped))
    return min(rooms, key=lambda room: room.free)


def _of_rounded_length(cache: CacheConfig, plan: Callable[[CacheConfig], CacheConfig]) -> CacheConfig:
    """The result of `plan` for the cache with its length rounded up, or not rounded if that costs tokens or does not fit."""
    if cache.max_frames is None:
        return plan(cache)
    rounded = dataclasses.replace(cache, max_frames=rounded_length(cache.max_frames))
    with suppress(ValueError):
        if (planned := plan(rounded)) == rounded:
            return planned
    return plan(cache)


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
    """Bytes of the buffers of a stream with all heads of the model, which may be abstract; nothing is allocated."""
    options: dict[str, Any] = {"height": height, "width": width, "heads": model.config.predicts}
    if "tracks" in model.config.predicts:
        options["query_points"] = np.zeros((1, POINTS, 2))
    state = jax.eval_shape(lambda: init_stream(model, cache, **options))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def step_bytes(cache: CacheConfig, height: int, width: int) -> int:
    """Bytes that a step needs besides weights and stream, estimated for the full model."""
    return int(ACTIVATIONS * height * width * (1 + SHARE_OF_FURTHER_FRAMES * (cache.frames_per_step - 1)))


def default_budget(model: ModelConfig, height: int, width: int, published: int = PUBLISHED_BUDGET) -> int:
    """Default budget: tokens for as many frames as `published` tokens hold at 518×392 (1,200,000: 48 frames)."""
    full = ModelConfig.vggt_1b()
    tokens, layers = full.tokens_per_frame(392, 518), full.depth
    return -(-published * model.tokens_per_frame(height, width) * model.depth // (tokens * layers))


def rounded_length(frames: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, … that is at least `frames`.

    Buffers of this length serve runs of similar length, which then share a compiled program.
    """
    power = 1 << (frames - 1).bit_length()
    return power * 3 // 4 if frames <= power * 3 // 4 else power


def fitting_cache(model: Model, cache: CacheConfig, height: int, width: int, room: float) -> CacheConfig:
    """The cache with its budget lowered, if necessary, to fit `room` bytes.

    It is never lowered below the anchor frames, at least one, in each layer.
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


def free_cache(model: Model, cache: CacheConfig, height: int, width: int, room: Room) -> CacheConfig:
    """The cache with its budget, and its longest stream, lowered to fit a share of free memory.

    Raises ValueError when even the minimum does not fit in all of it.
    """
    beside = step_bytes(cache, height, width) + PROCESS
    most = min(SHARE_OF_MEMORY * room.free, room.free - beside)
    fitting = fitting_cache(model, cache, height, width, most)
    if (stream := stream_bytes(model, fitting, height, width)) > most:
        raise ValueError(
            f"the memory is too little, {room.bound} leaves {gigabytes(room.free)} beside the weights: a cache of "
            f"{fitting.total_budget:,} tokens takes {gigabytes(stream)}, a step at {width}×{height} and compiling it about "
            f"{gigabytes(beside)}; give a smaller --size, or a --budget to try it"
        )
    return fitting


def limited_cache(model: Model, cache: CacheConfig, height: int, width: int, limit: int, fixed: bool) -> CacheConfig:
    """A cache with which weights, stream and a step's activations fit `limit` bytes; int8 is tried before fewer tokens.

    `fixed`: the budget is the user's and is kept. Raises ValueError when even the minimum does not fit.
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
