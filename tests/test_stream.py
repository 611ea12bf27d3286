"""Streams of the tiny model: how step, scan, stream and reset agree with each other and with a clip.

Frames are cut to 28×42 (11 tokens). The total budget leaves three frames a layer: eviction from the fourth frame on.
"""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streaming import assert_close, assert_same_state, feed, live_tokens

from ivggt_jax import CacheConfig, Model, ModelConfig, init_stream, infer_clip, reset, scan, step, stream

TOKENS = 11
SIZE = {"height": 28, "width": 42}
BOUNDED = CacheConfig(total_budget=4 * 3 * TOKENS, camera_frames=4)
HEADS = ("camera", "depth")


@pytest.fixture(scope="module")
def videos(frames: np.ndarray) -> np.ndarray:
    """Three streams of 16 different frames, [T,B,28,42,3]."""
    crops = [frames[:, :28, :42], frames[::-1, 28:, 28:], frames[:, 14:42, 14:56] ** 2]
    return np.stack(crops, axis=1)


@pytest.fixture
def fresh(tiny: Model):
    """Makes states: three streams, bounded, camera and depth unless asked otherwise."""
    return lambda cache=BOUNDED, batch=3, **options: init_stream(
        tiny, cache, **{**SIZE, "heads": HEADS, **options}, batch=batch
    )


def of_stream(tree, index: int):
    return jax.tree.map(lambda x: x[:, index : index + 1], tree)


def test_a_hundred_frames_compile_once(tiny: Model, videos: np.ndarray, fresh):
    """The state comes back with the shapes and types it went in with."""
    counted = jax.jit(chex.assert_max_traces(step.__wrapped__, n=1), donate_argnames="state")
    state = fresh()
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for t in range(100):
        state, _ = counted(tiny, state, videos[t % 16])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes
    np.testing.assert_array_equal(state.frame, [100, 100, 100])
    assert state.lengths.sum(1).max() <= BOUNDED.total_budget


def test_scan_equals_steps(tiny: Model, videos: np.ndarray, fresh):
    """Nine frames in two scans of different lengths."""
    by_step, expected = feed(tiny, fresh(), videos[:9])
    state, first = scan(tiny, fresh(), videos[:5])
    state, second = scan(tiny, state, videos[5:9])
    assert_close(jax.tree.map(lambda *x: np.concatenate(x), first, second), expected)
    assert_same_state(state, by_step)


def test_a_stream_of_a_batch_equals_the_stream_alone(tiny: Model, videos: np.ndarray, fresh):
    together, predictions = feed(tiny, fresh(), videos[:9])
    tokens = live_tokens(together)
    for i in range(3):
        alone, expected = feed(tiny, fresh(batch=1), videos[:9, i : i + 1])
        assert_close(of_stream(predictions, i), expected)
        assert_close(together.scores[i], alone.scores[0], 1e-6)
        assert {key: tokens[i, *key[1:]] for key in live_tokens(alone)} == live_tokens(alone)


def test_streams_need_not_be_in_step(tiny: Model, videos: np.ndarray, fresh):
    """A stream that is reset while the others go on equals a fresh one; the others do not notice."""
    state, before = feed(tiny, fresh(), videos[:6])
    state = reset(state, np.array([False, True, False]))
    np.testing.assert_array_equal(state.frame, [6, 0, 6])
    state, after = feed(tiny, state, videos[6:12])
    unbroken, expected = feed(tiny, fresh(), videos[:12])
    anew, expected_anew = feed(tiny, fresh(), videos[6:12])
    tokens = live_tokens(state)
    for i, (state_wanted, wanted) in enumerate(
        [
            (unbroken, jax.tree.map(lambda x: x[6:], expected)),
            (anew, expected_anew),
            (unbroken, jax.tree.map(lambda x: x[6:], expected)),
        ]
    ):
        assert_close(of_stream(after, i), of_stream(wanted, i))
        wanted_tokens = live_tokens(state_wanted)
        assert all(tokens[key] == wanted_tokens[key] for key in tokens if key[0] == i)


def test_reset_equals_a_fresh_start(tiny: Model, videos: np.ndarray, fresh):
    state, _ = feed(tiny, fresh(), videos[:7])
    state = reset(state, np.ones(3, bool))
    chex.assert_trees_all_equal(state, fresh())


@pytest.mark.parametrize("at", [0, 2, 5], ids=["anchor", "before eviction", "while evicting"])
def test_a_frame_of_nan_disturbs_no_other_stream(tiny: Model, videos: np.ndarray, fresh, at):
    _, expected = feed(tiny, fresh(), videos[:9])
    broken = videos[:9].copy()
    broken[at, 1] = np.nan
    state, found = feed(tiny, fresh(), broken)
    for i in (0, 2):
        chex.assert_trees_all_equal(of_stream(found, i), of_stream(expected, i))
    assert np.isnan(found.depth[at, 1]).all()
    assert np.asarray(state.budgets).min() >= TOKENS, "the anchor stays"
    np.testing.assert_array_equal(state.lengths, state.budgets)

    state = reset(state, np.array([False, True, False]))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    _, found = feed(tiny, state, videos[:9])
    assert_close(of_stream(found, 1), of_stream(expected, 1))


@pytest.fixture(scope="module")
def clip(tiny: Model, videos: np.ndarray):
    """Eight frames of three streams, causally, with time as the first axis."""
    predictions = infer_clip(tiny, videos[:8].swapaxes(0, 1), "causal", heads=HEADS)
    return jax.tree.map(lambda x: x.swapaxes(0, 1), predictions)


def test_unbounded_stream_equals_the_causal_clip(tiny: Model, videos: np.ndarray, fresh, clip):
    cache = CacheConfig(total_budget=None, max_frames=8, camera_cache="per_iteration")
    state, found = feed(tiny, fresh(cache), videos[:8])
    assert_close(found, clip)
    np.testing.assert_array_equal(state.lengths, np.full((3, 4), 8 * TOKENS))
    np.testing.assert_array_equal(state.dropped, [0, 0, 0])


def test_beyond_max_frames_tokens_are_dropped_and_counted(tiny: Model, videos: np.ndarray, fresh, clip):
    """A frame past the end sees the kept ones and itself: like the frame that would come next."""
    cache = CacheConfig(total_budget=None, max_frames=3, camera_cache="per_iteration")
    skipping = videos[[0, 1, 2, 5, 3]]
    state, found = feed(tiny, fresh(cache), skipping)
    np.testing.assert_array_equal(state.dropped, np.full(3, 2 * TOKENS))
    np.testing.assert_array_equal(state.lengths, np.full((3, 4), 3 * TOKENS))
    assert_close(found.depth[:3], clip.depth[:3])
    assert_close(found.depth[4], clip.depth[3])
    scanned, _ = scan(tiny, fresh(cache), skipping)
    assert_same_state(scanned, state)


def test_knowing_the_length_changes_nothing(tiny: Model, videos: np.ndarray, fresh):
    """Eviction begins at the last frame but two; then some layer's budget exceeds all there will ever be."""
    total = 4 * (14 * TOKENS - 1)
    state, expected = feed(tiny, fresh(CacheConfig(total_budget=total)), videos)
    bounded, found = feed(tiny, fresh(CacheConfig(total_budget=total, max_frames=16)), videos)
    assert np.asarray(state.budgets).max() > 16 * TOKENS
    assert bounded.cache.keys.shape[2] < state.cache.keys.shape[2]
    assert live_tokens(bounded) == live_tokens(state)
    np.testing.assert_array_equal(bounded.clipped, state.clipped)
    assert_close(found, expected)


def test_camera_ring_equals_the_unbounded_one_until_it_is_full(tiny: Model, videos: np.ndarray, fresh):
    """Depth never notices."""
    _, ring = feed(tiny, fresh(), videos[:7])
    _, everything = feed(tiny, fresh(replace(BOUNDED, camera_frames=64)), videos[:7])
    assert_close(ring.pose_encoding[:4], everything.pose_encoding[:4])
    assert_close(ring.depth, everything.depth)
    assert np.abs(ring.pose_encoding[4:] - everything.pose_encoding[4:]).max() > 1e-3


def test_a_layer_that_evicts_nothing_keeps_its_score_and_grows(tiny: Model, videos: np.ndarray, fresh):
    """A score of −0.1 gives layer 0 a budget with room for a frame; layer 3's falls to less than two frames above the anchor."""
    state, _ = feed(tiny, fresh(), videos[:6])
    lengths = np.asarray(state.lengths)
    scores = np.tile(np.float32([-0.1, 0.4, 0.4, 0.8]), (3, 1))
    state, _ = step(tiny, replace(state, scores=jnp.asarray(scores)), videos[6])
    budgets = np.asarray(state.budgets)
    assert (budgets[:, 0] >= lengths[:, 0] + TOKENS).all()
    assert (budgets[:, 3] < lengths[:, 3]).all()
    np.testing.assert_array_equal(state.lengths[:, 0], lengths[:, 0] + TOKENS)
    np.testing.assert_array_equal(state.scores[:, 0], scores[:, 0])
    np.testing.assert_array_equal(state.lengths[:, 3], budgets[:, 3])
    assert np.abs(np.asarray(state.scores[:, 3]) - scores[:, 3]).min() > 1e-3


def test_budgets_clipped_to_the_buffer_are_counted(tiny: Model, videos: np.ndarray, fresh):
    """A factor of 1 leaves no room for unequal shares: from the frame after the first eviction layers are clipped."""
    state, _ = feed(tiny, fresh(replace(BOUNDED, capacity_factor=1.0)), videos[:4])
    np.testing.assert_array_equal(state.clipped, [0, 0, 0])
    state, _ = feed(tiny, state, videos[4:6])
    assert (np.asarray(state.clipped) >= 2).all()
    np.testing.assert_array_equal(state.budgets, np.full((3, 4), 3 * TOKENS))


@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_stream_hands_out_every_frame(tiny: Model, videos: np.ndarray, fresh, chunk):
    """Seven frames: in chunks of three the last is short, in one of sixteen it is all there is."""
    _, expected = feed(tiny, fresh(batch=1), videos[:7, :1])
    found = list(stream(tiny, iter(videos[:7, 0]), BOUNDED, chunk=chunk, heads=HEADS))
    assert len(found) == 7
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(found))
    assert_close(jax.tree.map(lambda *x: np.stack(x)[:, None], *found), expected)


@pytest.mark.parametrize("chunk", [1, 3])
def test_stream_stops_before_the_frame_that_does_not_fit(tiny: Model, videos: np.ndarray, chunk):
    """Everything up to it is handed out."""
    running = stream(tiny, videos[:6, 0], CacheConfig(total_budget=None, max_frames=4), chunk=chunk, heads=["depth"])
    found = []
    with pytest.raises(ValueError, match="max_frames=4"):
        found.extend(running)
    assert len(found) == 4


def test_stream_of_nothing(tiny: Model):
    assert list(stream(tiny, [])) == []


def test_uint8_equals_float(tiny: Model, videos: np.ndarray, fresh):
    pixels = np.round(videos[:2] * 255).astype(np.uint8)
    _, found = feed(tiny, fresh(), pixels)
    _, expected = feed(tiny, fresh(), pixels.astype(np.float32) / 255)
    assert_close(found, expected)


def test_heads_and_features_are_what_was_asked_for(tiny: Model, videos: np.ndarray, fresh):
    state = fresh(batch=1, heads=["points"], features=True)
    assert state.camera is None
    assert state.tracks is None
    _, found = feed(tiny, state, videos[:1, :1])
    assert {name for name in vars(found) if getattr(found, name) is not None} == {
        "points",
        "points_confidence",
        "features",
    }
    expected = infer_clip(tiny, videos[:1, :1].swapaxes(0, 1), features=True)
    assert found.features.shape == (1, 1, TOKENS, 128)
    assert_close(found.features, np.asarray(expected.features))


def test_tracks_equal_those_of_the_clip_while_the_window_holds_it(tiny: Model, videos: np.ndarray):
    """To the tolerance of tracks: rounding grows with each iteration."""
    queries = np.random.default_rng(0).uniform((2, 2), (40, 26), (1, 5, 2)).astype(np.float32)
    cache = CacheConfig(total_budget=None, max_frames=4, track_window=4)
    state = init_stream(tiny, cache, **SIZE, query_points=queries, heads=["tracks"])
    _, found = feed(tiny, state, videos[:4, :1])
    assert_close(found.tracks[0, 0], queries[0])
    for t in range(1, 4):
        clip = infer_clip(tiny, videos[None, : t + 1, 0], "causal", query_points=queries, heads=["tracks"])
        distance = np.linalg.norm(found.tracks[t, 0] - clip.tracks[0, t], axis=-1)
        assert np.median(distance) < 0.08
        assert distance.max() < 1.2
        assert np.abs(found.visibility[t, 0] - clip.visibility[0, t]).max() < 0.06
    moved = np.linalg.norm(found.tracks[3, 0] - queries[0], axis=-1)
    assert moved.max() > 0.1


def test_bfloat16_trunk(tiny: Model, videos: np.ndarray, fresh):
    """Keys and values are cached in the trunk's type; the numbers are near those of float32 (median error below 3%)."""
    from ivggt_jax.model.parameters import cast

    half = cast(tiny, jnp.bfloat16)
    state = init_stream(half, BOUNDED, **SIZE, heads=HEADS)
    assert state.cache.keys.dtype == jnp.bfloat16
    state, found = feed(half, state, videos[:5, :1])
    _, expected = feed(tiny, fresh(batch=1), videos[:5, :1])
    assert found.depth.dtype == np.float32
    assert np.median(np.abs(found.depth / expected.depth - 1)) < 0.03
