"""Streams of a batch know nothing of each other, and a reset leaves nothing behind."""

import chex
import jax
import numpy as np
import pytest
from streaming import TOKENS, assert_close, assert_same_stream, feed, of_stream, start

from ivggt_jax import Model, reset

ONLY_THE_SECOND = np.array([False, True, False])


@pytest.fixture(scope="module")
def unbroken(tiny: Model, videos: np.ndarray):
    """The three streams over twelve frames: state and predictions."""
    return feed(tiny, start(tiny), videos[:12])


def test_a_stream_of_a_batch_equals_the_stream_alone(tiny: Model, videos: np.ndarray, unbroken):
    together, predictions = unbroken
    for i in range(3):
        alone, expected = feed(tiny, start(tiny, batch=1), videos[:12, i : i + 1])
        assert_close(of_stream(predictions, i), expected)
        assert_same_stream(together, i, alone, 0)


def test_reset_equals_a_fresh_start(tiny: Model, videos: np.ndarray):
    """To the last digit, six frames after a reset, past leftovers of which some are NaN."""
    broken = videos[:7].copy()
    broken[5] = np.nan
    state, _ = feed(tiny, start(tiny), broken)
    state = reset(state, np.ones(3, bool))
    for name in ("lengths", "scores", "budgets", "frame", "clipped", "dropped"):
        np.testing.assert_array_equal(getattr(state, name), getattr(start(tiny), name))
    _, found = feed(tiny, state, videos[:6])
    _, expected = feed(tiny, start(tiny), videos[:6])
    chex.assert_trees_all_equal(found, expected)


def test_a_reset_stream_begins_again_while_the_others_go_on(tiny: Model, videos: np.ndarray, unbroken):
    state, _ = feed(tiny, start(tiny), videos[:6])
    state, found = feed(tiny, reset(state, ONLY_THE_SECOND), videos[6:12])
    np.testing.assert_array_equal(state.frame, [12, 6, 12])
    continued = jax.tree.map(lambda x: x[6:], unbroken[1])
    begun_state, begun = feed(tiny, start(tiny), videos[6:12])
    for i in (0, 2):
        assert_close(of_stream(found, i), of_stream(continued, i))
        assert_same_stream(state, i, unbroken[0], i)
    assert_close(of_stream(found, 1), of_stream(begun, 1))
    assert_same_stream(state, 1, begun_state, 1)


@pytest.mark.parametrize("at", [0, 2, 5], ids=["first frame", "before eviction", "while evicting"])
def test_a_frame_of_nan_disturbs_no_other_stream(tiny: Model, videos: np.ndarray, unbroken, at):
    """Budgets and lengths of the broken stream stay in their limits; after its reset what is left of NaN has no influence."""
    broken = videos[:12].copy()
    broken[at, 1] = np.nan
    state, found = feed(tiny, start(tiny), broken)
    for i in (0, 2):
        chex.assert_trees_all_equal(of_stream(found, i), of_stream(unbroken[1], i))
        assert_same_stream(state, i, unbroken[0], i)
    assert np.isnan(found.features[at, 1]).any()
    assert at or np.isnan(found.features[:, 1]).any((1, 2)).all(), "a broken anchor stays one until the reset"
    assert np.asarray(state.budgets).min() >= TOKENS
    np.testing.assert_array_equal(state.lengths, state.budgets)

    state = reset(state, ONLY_THE_SECOND)
    assert np.isnan(state.cache.keys).any(), "what is dead may stay"
    _, found = feed(tiny, state, videos[:12])
    assert_close(of_stream(found, 1), of_stream(unbroken[1], 1))


def test_reset_gives_new_query_points_to_the_marked_streams_only(tiny: Model):
    old, new = np.random.default_rng(0).uniform(0, 28, (2, 3, 5, 2)).astype(np.float32)
    state = reset(start(tiny, heads=["tracks"], query_points=old), ONLY_THE_SECOND, new)
    np.testing.assert_array_equal(state.tracks.query_points, np.where(ONLY_THE_SECOND[:, None, None], new, old))


@pytest.mark.parametrize("count", [1, 6])
def test_new_query_points_are_as_many_as_the_old(tiny: Model, count: int):
    points = np.zeros((3, 5, 2), np.float32)
    state = start(tiny, heads=["tracks"], query_points=points)
    with pytest.raises(ValueError, match=rf"\[3, 5, 2\], not \[3, {count}, 2\]"):
        reset(state, ONLY_THE_SECOND, points[:, [0] * count])
    with pytest.raises(ValueError, match="none, not"):
        reset(start(tiny), ONLY_THE_SECOND, points)
