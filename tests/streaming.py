"""Helpers of the tests that feed streams: small frames, a small budget, and how states are compared.

Frames of 28×42 have 11 tokens. The total budget leaves three frames a layer: eviction begins with the fourth.
"""

from typing import Any

import jax
import numpy as np

from ivggt_jax import CacheConfig, Model, Predictions, StreamState, init_stream, step

TOKENS = 11
HEIGHT, WIDTH = 28, 42
BOUNDED = CacheConfig(total_budget=4 * 3 * TOKENS, camera_frames=4)


def start(model: Model, cache: CacheConfig = BOUNDED, batch: int = 3, **options) -> StreamState:
    """A fresh state with camera and features: the last tokens show what depth would, and compile faster."""
    options = {"heads": ("camera",), "features": True, **options}
    return init_stream(model, cache, height=HEIGHT, width=WIDTH, batch=batch, **options)


def feed(model: Model, state: StreamState, frames: np.ndarray, *where: np.ndarray) -> tuple[StreamState, Predictions]:
    """Frames [T,B,H,W,3] step by step; the last state, and the predictions stacked on T, on the host."""
    seen = []
    for frame in frames:
        state, predictions = step(model, state, frame, *where)
        seen.append(jax.tree.map(np.array, predictions))
    return state, jax.tree.map(lambda *x: np.stack(x), *seen)


def of_stream(predictions: Predictions, index: int) -> Predictions:
    """One stream of stacked predictions [T,B,…], batch axis kept."""
    return jax.tree.map(lambda x: x[:, index : index + 1], predictions)


def live_tokens(state: StreamState, index: int) -> list[list[list[int]]]:
    """[layer][head] → a stream's tokens in the cache, sorted, as frame · tokens per frame + token."""
    origin, length = np.asarray(state.cache.origin), np.asarray(state.cache.length)
    heads = range(origin.shape[-1])
    return [
        [sorted(rows[index, : n[index], head].tolist()) for head in heads]
        for rows, n in zip(origin, length, strict=True)
    ]


def assert_close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Trees of arrays, compared absolutely."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), found, expected)


def assert_same_stream(found: StreamState, i: int, expected: StreamState, j: int) -> None:
    """Stream i of a state and stream j of another: counters and tokens are exact, scores within 1e-6."""
    for name in ("lengths", "budgets", "frame", "clipped", "dropped"):
        np.testing.assert_array_equal(getattr(found, name)[i], getattr(expected, name)[j], err_msg=name)
    assert_close(found.scores[i], expected.scores[j], 1e-6)
    assert live_tokens(found, i) == live_tokens(expected, j)
