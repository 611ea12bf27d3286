"""Streams of a batch that are left out of a step neither see nor remember its frame, whatever that holds."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from streaming import BOUNDED, assert_close, assert_same_stream, feed, start

from ivggt_jax import CacheConfig, Model, Predictions, StreamState, reset, step

TURNS = np.array([[True, t % 2 == 1, t % 3 == 0 or t > 9] for t in range(12)])
"""Which of the streams see a frame at each of twelve steps: all, every second, four at first and then all."""
QUERIES = np.random.default_rng(0).uniform(2, 26, (3, 5, 2)).astype(np.float32)


def follow(
    model: Model, state: StreamState, frames: np.ndarray, turns: np.ndarray
) -> list[tuple[StreamState, Predictions]]:
    """State and predictions, on the host, after each step; a stream whose turn it is not is given NaN."""
    found, seen = [], np.zeros(3, int)
    for where in turns:
        frame = np.stack([frames[n, i] if where[i] else np.full_like(frames[0, i], np.nan) for i, n in enumerate(seen)])
        state, predictions = step(model, state, frame, where)
        found.append(jax.tree.map(np.array, (state, predictions)))
        seen += where
    return found


@pytest.mark.parametrize(
    ("cache", "options"),
    [
        (replace(BOUNDED, track_window=3), {"heads": ("camera", "tracks"), "query_points": QUERIES}),
        (replace(BOUNDED, policy="frame", evict_after_attention=True), {}),
        (replace(BOUNDED, policy="residual"), {}),
        (replace(BOUNDED, policy="attention", dtype="int8"), {}),
        (CacheConfig(total_budget=None, max_frames=5, camera_cache="per_iteration"), {}),
    ],
    ids=["diversity and tracks", "frame", "residual", "attention", "unbounded"],
)
def test_streams_at_different_rates_are_those_that_see_every_frame(tiny: Model, videos: np.ndarray, cache, options):
    """To the last digit, by the same program; camera ring (4), track window (3) and unbounded buffer (5) run over."""
    begin = partial(start, tiny, cache, **options)
    whole = follow(tiny, begin(), videos, np.ones_like(TURNS))
    for t, (state, found) in enumerate(follow(tiny, begin(), videos, TURNS)):
        for i, seen in enumerate(TURNS[: t + 1].sum(0)):
            if TURNS[t, i]:
                expected_state, expected = whole[seen - 1]
                jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y[i]), found, expected)
                assert_same_stream(state, i, expected_state, i)
            else:
                assert state.frame[i] == seen


def test_all_is_what_nothing_said_means(tiny: Model, videos: np.ndarray):
    _, expected = feed(tiny, start(tiny), videos[:6])
    found = [predictions for _, predictions in follow(tiny, start(tiny), videos, np.ones((6, 3), bool))]
    assert_close(jax.tree.map(lambda *x: np.stack(x), *found), expected)


@pytest.mark.parametrize("shape", [(), (1,), (4,)])
def test_where_must_name_every_stream(tiny: Model, videos: np.ndarray, shape):
    with pytest.raises(ValueError, match="each of 3 streams"):
        reset(start(tiny), np.ones(shape, bool))
    with pytest.raises(ValueError, match="each of 3 streams"):
        step(tiny, start(tiny), videos[0], np.ones(shape, bool))


@pytest.mark.parametrize("where", [[0, 1, 2], [1.0, 0.0, 1.0], [True, False]])
def test_streams_are_marked_by_bools(tiny: Model, where: list):
    """Numbers of streams, as NumPy would take them, would be read as marks."""
    for use in (
        lambda: reset(start(tiny), np.array(where)),
        lambda: step(tiny, start(tiny), np.zeros((3, 28, 42, 3), np.float32), np.array(where)),
    ):
        with pytest.raises(ValueError, match="where must be a bool for each of 3 streams, not "):
            use()
