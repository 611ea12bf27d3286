"""Streams with submaps: one world, constant memory, any way to feed them; random weights, 28×42 frames, seeds of conftest.

Frames go in one by one wherever it makes no difference, and configurations are few: all such streams share compiled steps.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streaming import feed

from ivggt_jax import CacheConfig, Model, Predictions, StreamState, SubmapConfig, init_stream, reset, scan, step, stream

CACHE = CacheConfig(total_budget=None, max_frames=8)
SUBMAPS = SubmapConfig(frames=4, delay=2, keyframes=2, keyframe_every=2)
PLAIN = SubmapConfig(frames=4, delay=2, refine=False)
BOTH = np.array([True, True])
"""Of two streams."""
QUERIES = np.random.default_rng(1).uniform(4, 24, (1, 3, 2)).astype(np.float32)
AT_ONCE = {
    "submaps": SubmapConfig(frames=4, delay=0, refine=False),
    "heads": ("camera", "depth", "tracks"), "query_points": QUERIES,
}  # fmt: skip
"""Submaps that begin as soon as they are due, and tracks."""


def begin(model: Model, batch: int = 1, **options) -> StreamState:
    options = {"submaps": SUBMAPS, "heads": ("camera", "depth"), **options}
    return init_stream(model, options.pop("cache", CACHE), height=28, width=42, batch=batch, **options)


def assert_close(found: Predictions, wanted: Predictions, tolerance: float = 1e-5) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_a_batch_is_single_streams_and_a_scan_is_steps(tiny: Model, videos: np.ndarray) -> None:
    _, together = scan(tiny, begin(tiny, 3, submaps=PLAIN), videos)  # refined depths that are random are chaos
    for i in range(3):
        _, alone = feed(tiny, begin(tiny, submaps=PLAIN), videos[:, i : i + 1])
        assert_close(jax.tree.map(lambda x, i=i: x[:, i : i + 1], together), alone, 1e-4)
    assert np.asarray(together.map.anchor).sum() >= 9


def test_between_anchors_a_stream_without_refinement_is_the_network_alone(tiny: Model, videos: np.ndarray) -> None:
    _, found = feed(tiny, begin(tiny, submaps=PLAIN), videos[:8, :1])
    _, wanted = feed(tiny, begin(tiny, submaps=None), videos[:4, :1])
    np.testing.assert_allclose(found.depth[:4], wanted.depth, rtol=1e-5)
    quaternion = np.sign(wanted.pose_encoding[..., 6:7]) * wanted.pose_encoding[..., 3:7]
    quaternion /= np.linalg.norm(quaternion, axis=-1, keepdims=True)
    np.testing.assert_allclose(found.pose_encoding[:4, :, :3], wanted.pose_encoding[..., :3], atol=1e-4)
    np.testing.assert_allclose(found.pose_encoding[:4, :, 3:7], quaternion, atol=1e-4)
    assert np.flatnonzero(found.map.anchor[:, 0])[0] == 3


def test_the_new_submap_continues_where_the_old_one_ended(tiny: Model, videos: np.ndarray) -> None:
    """The anchor's camera lies in one place in both, and the median of its depths is the same."""
    state, found = feed(tiny, begin(tiny, **AT_ONCE), videos[:4, :1])
    assert found.map.anchor[3, 0]
    _, again = step(tiny, begin(tiny, submaps=None), videos[3, :1])
    moved = state.map.world_from_model
    np.testing.assert_allclose(np.median(moved.scale[0] * again.depth[0]) / np.median(found.depth[3, 0]), 1, rtol=0.05)
    assert int(state.frame[0]) == 1
    assert int(state.map.frame[0]) == 4
    assert int(state.map.submap[0]) == 1


def test_masks_hide_pixels_from_the_map_and_from_nothing_else(tiny: Model, videos: np.ndarray) -> None:
    """White masks change nothing. Of black ones no anchor is made and no pose refined: the network's stand as they are."""
    masks = np.ones(videos.shape[:-1], bool)[:8, :1]
    _, without = scan(tiny, begin(tiny), videos[:8, :1])
    _, white = scan(tiny, begin(tiny), videos[:8, :1], masks)
    assert_close(white, without)
    assert white.map.anchor.any()
    _, black = scan(tiny, begin(tiny), videos[:8, :1], ~masks)
    _, alone = feed(tiny, begin(tiny, submaps=None), videos[:8, :1])
    assert not black.map.anchor.any()
    assert not black.map.refined.any()
    np.testing.assert_allclose(black.depth, alone.depth, rtol=1e-5)
    np.testing.assert_allclose(black.pose_encoding[..., :3], alone.pose_encoding[..., :3], atol=1e-4)
    with pytest.raises(ValueError, match=r"masks must be bool \[1, 28, 42\], not float32 \[1, 28, 42\]"):
        step(tiny, begin(tiny), videos[0, :1], masks=masks[0].astype(np.float32))


def test_memory_never_grows_and_nothing_compiles_anew(tiny: Model, videos: np.ndarray) -> None:
    state = begin(tiny)
    sizes, compiled = {state.nbytes}, []
    for i in range(20):
        state, _ = step(tiny, state, videos[i % 16, :1])
        sizes.add(state.nbytes)
        compiled.append(step._cache_size())
    assert len(sizes) == 1
    assert compiled[0] == compiled[-1]


def test_frames_that_share_a_pass_share_the_anchor(tiny: Model, videos: np.ndarray) -> None:
    cache = CacheConfig(total_budget=600, max_frames=16, frames_per_step=2)
    state, found = scan(tiny, begin(tiny, cache=cache), videos[:, :1])
    anchors = np.flatnonzero(found.map.anchor[:, 0])
    assert len(anchors) >= 3
    assert (anchors % 2 == 1).all()
    assert int(state.frame[0]) >= 2


def test_a_video_that_breaks_off_begins_a_new_part(tiny: Model, videos: np.ndarray) -> None:
    """Depths that have nothing to do with each other make no link; these come from a network with random weights."""
    noise = np.random.default_rng(0).uniform(0, 1, (12, 1, 28, 42, 3)).astype(np.float32)
    config = SubmapConfig(frames=6, keyframes=2, keyframe_every=1)
    _, found = feed(tiny, begin(tiny, submaps=config), np.concatenate((videos[:6, :1], noise)))
    assert found.map.part[-1, 0] > 0


def test_a_covered_lens_is_no_anchor(tiny: Model, videos: np.ndarray) -> None:
    black = np.zeros((5, 1, 28, 42, 3), np.float32)
    _, found = feed(tiny, begin(tiny), np.concatenate((videos[:4, :1], black, videos[4:8, :1])))
    anchors = np.flatnonzero(found.map.anchor[:, 0])
    assert len(anchors)
    assert not ((anchors >= 4) & (anchors < 9)).any()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.parametrize("together", [1, 2])
def test_tracks_go_on_over_anchors(tiny: Model, videos: np.ndarray, together: int) -> None:
    """The next submap sees all frames of a pass again: points go on from where they were in the first of them."""
    cache = replace(CACHE, frames_per_step=together)
    state, found = scan(tiny, begin(tiny, cache=cache, **AT_ONCE), videos[:4, :1])
    np.testing.assert_allclose(state.tracks.query_points, found.tracks[-together], atol=1e-5)
    np.testing.assert_array_equal(state.map.alive, np.asarray(found.visibility[-together]) > 0.5)
    assert np.abs(found.tracks[-1] - found.tracks[-2]).max() > 1e-3


def test_reset_begins_a_new_world(tiny: Model, videos: np.ndarray) -> None:
    state, first = feed(tiny, begin(tiny, 2), videos[:10, :2], BOTH)
    state = reset(state, np.array([True, False]))
    assert int(state.map.frame[0]) == 0
    assert int(state.map.frame[1]) == 10
    _, again = feed(tiny, state, videos[:10, :2], BOTH)
    assert_close(jax.tree.map(lambda x: x[:, 0], again), jax.tree.map(lambda x: x[:, 0], first))


def test_reset_tracks_the_first_points_again(tiny: Model, videos: np.ndarray) -> None:
    """Not those of the last anchor, where a frame that is not a number would leave points that are none."""
    state = begin(tiny, **AT_ONCE)
    _, wanted = step(tiny, state, videos[0, :1])
    state = begin(tiny, **AT_ONCE)
    for frame in videos[:3, :1]:
        state, _ = step(tiny, state, frame)
    state, found = step(tiny, state, np.full_like(videos[0, :1], np.nan, np.float32))
    assert np.isnan(found.tracks).any()
    state, again = step(tiny, reset(state, np.array([True])), videos[0, :1])
    np.testing.assert_allclose(again.tracks, wanted.tracks, atol=1e-5)
    new = QUERIES + 1
    for points in (new, None):  # with points of its own, and again with these
        state, moved = step(tiny, reset(state, np.array([True]), points), videos[0, :1])
        np.testing.assert_array_equal(state.tracks.query_points, new)
    assert "frames seen by each stream [1]" in repr(state)


def test_stream_hands_out_the_map(tiny: Model, videos: np.ndarray) -> None:
    found = list(stream(tiny, videos[:, 0], CACHE, submaps=SUBMAPS, heads=("camera", "depth"), chunk=4))
    assert [int(x.map.submap) for x in found][-1] >= 3
    assert found[0].features is None


def test_a_memory_shorter_than_a_submap_ends_the_stream(tiny: Model, videos: np.ndarray) -> None:
    """Without eviction it would forget; one as long as the longest submap has room for any stream."""
    cache = replace(CACHE, max_frames=SUBMAPS.frames + SUBMAPS.delay - 1)
    found = stream(tiny, videos[:, 0], cache, submaps=SUBMAPS, heads=("camera", "depth"))
    with pytest.raises(ValueError, match="longer than max_frames=5"):
        list(found)
    assert SUBMAPS.longest(1) == 6 and replace(SUBMAPS, delay=3).longest(2) == 8
    cache = replace(CACHE, max_frames=SUBMAPS.longest(1))
    assert len(list(stream(tiny, videos[:, 0], cache, submaps=SUBMAPS, heads=("camera", "depth")))) == len(videos)


def test_submaps_need_camera_and_depth(tiny: Model) -> None:
    with pytest.raises(ValueError, match="camera and depth"):
        begin(tiny, heads=("camera",))
    with pytest.raises(ValueError, match="at least 2 frames"):
        SubmapConfig(frames=1)


def test_a_stream_that_is_left_out_stays_where_it_is(tiny: Model, videos: np.ndarray) -> None:
    """The second stream misses frames 3 to 5, the first one's anchor among them, and goes on as if there were none."""
    state, found = begin(tiny, 2), []
    for t in range(10):
        where = np.array([True, not 3 <= t < 6])
        frame = np.stack([videos[t, 0], videos[t if t < 3 else max(t - 3, 3), 1]])
        state, predictions = step(tiny, state, frame, where)
        if where[1]:
            found.append(jax.tree.map(lambda x: x[1], predictions))
    _, wanted = feed(tiny, begin(tiny), videos[:7, 1:2])
    assert np.asarray(wanted.map.anchor).any()
    assert_close(jax.tree.map(lambda *x: jnp.stack(x), *found), jax.tree.map(lambda x: x[:, 0], wanted), 1e-4)
