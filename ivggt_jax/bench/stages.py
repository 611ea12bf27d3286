"""Times each stage of a step alone, with the shapes and the full cache that it has in the step."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ivggt_jax.memory.cache import KVCache
from ivggt_jax.memory.ring import CameraMemory
from ivggt_jax.memory.token_memory import TokenMemory
from ivggt_jax.model.aggregator import across_frames
from ivggt_jax.model.layers import Block
from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import VGGT
from ivggt_jax.streaming.one_pass import token_memory
from ivggt_jax.streaming.state import StreamState

Inputs = dict[str, jax.Array]
"""Inputs of the stages: `frame` [B,H,W,3] uint8, `tokens` [B,P,width], `outputs` [layer,B,1,P,2·width]."""
Stage = Callable[[VGGT, StreamState, Inputs], tuple[StreamState, Any]]
"""→ (state with as many live tokens as before, the stage's result)."""


def time_stages(
    model: Model, state: StreamState, names: Iterable[str], repeats: int
) -> tuple[StreamState, dict[str, float]]:
    """Median seconds of the named stages. The given state is used up; a new one is returned."""
    inputs = make_inputs(model, state)
    found = {}
    for name in names:
        samples = []
        for _ in range(1 + repeats):
            began = time.perf_counter()
            state, result = jax.block_until_ready(run_stage(name, model, state, inputs))
            samples.append(time.perf_counter() - began)
            del result
        found[name] = float(np.median(samples[1:]))  # the first call compiles
    return state, found


def make_inputs(model: Model, state: StreamState) -> Inputs:
    """Random inputs in place of a frame, tokens and layer outputs."""
    settings, batch = state.settings, state.frame.shape[0]
    config = settings.model
    tokens = (batch, settings.tokens, config.width)
    outputs = (len(config.dpt_layers), batch, 1, settings.tokens, 2 * config.width)
    key = jax.random.key(0)
    return {
        "frame": jax.random.bits(key, (batch, settings.height, settings.width, 3), jnp.uint8),
        "tokens": jax.random.normal(key, tokens, jnp.float32),
        "outputs": jax.random.normal(key, outputs, jnp.float32),
    }


@partial(jax.jit, static_argnames="name", donate_argnames="state")
def run_stage(name: str, model: Model, state: StreamState, inputs: Inputs) -> tuple[StreamState, Any]:
    """Run one stage; the given state is used up."""
    return STAGES[name](model.network, state, inputs)


def _encoder(network: VGGT, state: StreamState, inputs: Inputs) -> tuple[StreamState, Any]:
    return state, network.aggregator.encoder(inputs["frame"].astype(jnp.float32) / 255)


def _frame_blocks(network: VGGT, state: StreamState, inputs: Inputs) -> tuple[StreamState, Any]:
    rotation = network.aggregator.rotation(state.settings.height, state.settings.width)
    x, _ = lax.scan(lambda x, block: (block(x, rotation), None), inputs["tokens"], network.aggregator.frame_blocks)
    return state, x


def _global_blocks(network: VGGT, state: StreamState, inputs: Inputs) -> tuple[StreamState, Any]:
    """Attends to as many tokens as remain after an eviction; the new ones overwrite the last of these."""
    settings, aggregator = state.settings, network.aggregator
    rotation = aggregator.rotation(settings.height, settings.width)
    cache = replace(state.cache, length=state.cache.length - settings.tokens)
    nobody = jnp.zeros(state.frame.shape, bool)

    def one(
        carry: tuple[jax.Array, TokenMemory], layer: tuple[Block, jax.Array]
    ) -> tuple[tuple[jax.Array, TokenMemory], None]:
        (x, memory), (block, index) = carry, layer
        return across_frames(block, x, rotation, memory, index), None

    memory = token_memory(replace(state, cache=cache), 1, nobody)
    layers = (aggregator.global_blocks, jnp.arange(settings.model.depth))
    (x, memory), _ = lax.scan(one, (inputs["tokens"], memory), layers)
    return replace(state, cache=replace(memory.cache, length=state.cache.length)), x


def _eviction(network: VGGT, state: StreamState, inputs: Inputs) -> tuple[StreamState, Any]:
    """Evicts as if a frame had come: the tokens behind the live ones count, and as many go."""
    eviction, tokens = token_memory(state, 1).eviction, state.settings.tokens

    def one(memory: tuple[KVCache, jax.Array], layer: jax.Array) -> tuple[tuple[KVCache, jax.Array], None]:
        cache, scores = memory
        budget = cache.length[layer]
        cache = replace(cache, length=cache.length.at[layer].add(tokens))
        cache, score = eviction.evict(cache, layer, budget, scores[:, layer])
        return (cache, scores.at[:, layer].set(score)), None

    (cache, scores), _ = lax.scan(one, (state.cache, state.scores), jnp.arange(state.settings.model.depth))
    return replace(state, cache=cache, scores=scores), None


def _camera(network: VGGT, state: StreamState, inputs: Inputs) -> tuple[StreamState, Any]:
    assert state.camera is not None
    memory = CameraMemory(state.camera, state.frame, state.settings.cache.camera_cache)
    poses, memory = network.camera.refine(inputs["outputs"][-1, :, :, 0], memory)
    return replace(state, camera=memory.ring), poses


def _dense(network: VGGT, state: StreamState, inputs: Inputs) -> tuple[StreamState, Any]:
    settings = state.settings
    return state, network.dense(inputs["outputs"], settings.height, settings.width, settings.heads)


STAGES: dict[str, Stage] = {
    "encoder": _encoder,
    "frame blocks": _frame_blocks,
    "global blocks": _global_blocks,
    "eviction": _eviction,
    "camera head": _camera,
    "dense heads": _dense,
}
"""Named as in `costs.step_costs`; global blocks are without eviction."""
