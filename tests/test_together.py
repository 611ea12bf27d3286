"""Layers that are brought down to their budgets together keep what each would have kept for itself.

That is done where kernels read the cache in place, on a GPU; here it is done on a CPU all the same. Streams of the tiny model, as
in `streaming`, two of them, 8 frames.
"""

from dataclasses import replace

import jax
import numpy as np
import pytest
from lowering import for_cuda, questions
from streaming import BOUNDED, TOKENS, assert_same_stream, start

from ivggt_jax import CacheConfig, Model, ModelConfig, init_stream, scan, step
from ivggt_jax.memory import token_memory
from ivggt_jax.model.parameters import abstract_model

AFTER = replace(BOUNDED, evict_after_attention=True)


@pytest.mark.parametrize(
    "cache",
    [
        AFTER,
        replace(BOUNDED, frames_per_step=2, dtype="int8"),
        replace(AFTER, policy="attention", total_budget=4 * 5 * TOKENS, anchor_frames=3, protect_special=True),
    ],
    ids=["some streams", "two frames a pass, int8", "attention, anchors"],
)
def test_the_same_tokens_to_the_slot(cache: CacheConfig, tiny: Model, videos: np.ndarray, monkeypatch):
    """Predictions and scores to the last bit, and the same tokens; one of two streams may miss every other frame."""
    states, found = [], []
    for together in (True, False):
        monkeypatch.setattr(token_memory, "can_read", lambda keys, together=together: together)
        state = start(tiny, cache, batch=2, heads=())
        if cache is AFTER:
            fed = jax.jit(step.__wrapped__)
            for frame in range(8):
                state, predictions = fed(tiny, state, videos[frame, :2], np.array([True, frame % 2 == 0]))
        else:
            state, predictions = jax.jit(scan.__wrapped__)(tiny, state, videos[:8, :2])
        states.append(state)
        found.append(jax.tree.map(np.asarray, predictions))
    jax.tree.map(np.testing.assert_array_equal, *found)
    np.testing.assert_array_equal(*(np.asarray(state.scores) for state in states))
    for stream in range(2):
        assert_same_stream(states[0], stream, states[1], stream)


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (CacheConfig(total_budget=4 * 600), {True: 2, False: 0}),
        (CacheConfig(total_budget=4 * 600, evict_after_attention=True), {True: 0, False: 2}),
        (CacheConfig(total_budget=4 * 600, evict_after_attention=True, policy="residual"), {True: 2, False: 0}),
    ],
    ids=["before attention", "after", "by a number that comes late"],
)
def test_what_the_host_is_asked(cache: CacheConfig, expected: dict[bool, int], monkeypatch: pytest.MonkeyPatch):
    """Twice in every layer, or twice in a frame: lowered for a GPU, the tiny model in float32."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    model = abstract_model(ModelConfig.tiny(), "float32")
    state = jax.eval_shape(lambda: init_stream(model, cache, height=28, width=42, heads=()))
    frame = jax.ShapeDtypeStruct((1, 28, 42, 3), np.uint8)
    asked = questions(for_cuda(jax.jit(step.__wrapped__), model, state, frame))
    assert {inside: sum(loop == inside for _, loop in asked) for inside in (True, False)} == expected
