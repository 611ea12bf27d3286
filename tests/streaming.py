"""Helpers of the tests that feed streams."""

from typing import Any

import jax
import numpy as np

from ivggt_jax import Model, Predictions, StreamState, step


def feed(model: Model, state: StreamState, frames: np.ndarray) -> tuple[StreamState, Predictions]:
    """Frames [T,B,H,W,3] step by step; the last state, and the predictions stacked on T, on the host."""
    seen = []
    for frame in frames:
        state, predictions = step(model, state, frame)
        seen.append(jax.tree.map(np.array, predictions))
    return state, jax.tree.map(lambda *x: np.stack(x), *seen)


def live_tokens(state: StreamState) -> dict[tuple[int, int, int], list[int]]:
    """(stream, layer, head) → which tokens are in the cache, sorted, as frame · tokens per frame + token."""
    origin, length = np.asarray(state.cache.origin), np.asarray(state.cache.length)
    layers, batch, _, heads = origin.shape
    return {
        (b, layer, head): sorted(origin[layer, b, : length[layer, b], head].tolist())
        for b, layer, head in np.ndindex(batch, layers, heads)
    }


def assert_close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Trees of arrays, compared absolutely."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), found, expected)


def assert_same_state(found: StreamState, expected: StreamState) -> None:
    """What a stream reports of itself: exact numbers, the same tokens, scores within 1e-6."""
    for name in ("lengths", "budgets", "frame", "clipped", "dropped"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert_close(found.scores, expected.scores, 1e-6)
    assert live_tokens(found) == live_tokens(expected)
