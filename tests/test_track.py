"""The tracker against the published reference's numbers and plain NumPy."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipe import GOLDEN

from ivggt_jax import Model, ModelConfig
from ivggt_jax.memory.track_window import TrackWindow
from ivggt_jax.model.heads.track import Tracker, flow_embedding, position_embedding

BATCH, FRAMES, HEIGHT, WIDTH, POINTS = 2, 4, 28, 35, 5
FEATURES = ModelConfig.tiny().track_features


def case(seed: int, batch: int = BATCH, frames: int = FRAMES) -> tuple[np.ndarray, np.ndarray]:
    """Random feature maps, and queries all over them."""
    random = np.random.default_rng(seed)
    maps = random.normal(size=(batch, frames, HEIGHT, WIDTH, FEATURES)).astype(np.float32)
    return maps, (random.uniform(size=(batch, POINTS, 2)) * [2 * WIDTH, 2 * HEIGHT]).astype(np.float32)


@partial(jax.jit, static_argnames="iterations")
def _compiled(tracker: Tracker, maps, queries, iterations, start=None, live=None):
    return tracker(maps, queries, start=start, live=live, iterations=iterations)


def run(tracker: Tracker, maps, queries, iterations=1, **options) -> list[np.ndarray]:
    return [np.asarray(x) for x in _compiled(tracker, maps, queries, iterations, **options)]


def assert_close(found, expected, pixels=1e-4, probability=1e-5):
    for x, y, tolerance in zip(found, expected, (pixels, probability, probability), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def tracker(tiny: Model) -> Tracker:
    return tiny.network.tracker


@pytest.fixture(scope="module")
def reference() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Three 7×26 maps, so that the last of three levels is one row; queries beyond the border among them."""
    maps = np.random.RandomState(0).standard_normal((1, 3, 7, 26, FEATURES)).astype(np.float32)
    return maps, dict(np.load(GOLDEN / "track.npz"))


def test_one_iteration(tracker, reference):
    maps, expected = reference
    found = run(tracker, maps, expected["query_points"])
    assert_close(found, [expected[f"{name}_1"] for name in ("tracks", "visibility", "confidence")])


@jax.jit
def gradients(tracker: Tracker, maps, queries, live):
    """Derivatives of the sum of all live results after two iterations, by parameters and maps."""

    def total(tracker, maps):
        tracks, visibility, confidence = tracker(maps, queries, live=live, iterations=2)
        return jnp.where(live[..., None], tracks.sum(-1) + visibility + confidence, 0).sum()

    return jax.grad(total, argnums=(0, 1))(tracker, maps)


@pytest.mark.slow
def test_second_iteration_and_its_derivative(tracker, reference):
    """Rounding has grown to 0.0003 px (tolerance 0.01); the derivative is far too large where positions pass it on."""
    maps, expected = reference
    found = run(tracker, maps, expected["query_points"], iterations=2)
    np.testing.assert_allclose(found[0], expected["tracks_2"], rtol=0, atol=0.01)
    _, by_maps = gradients(tracker, maps, expected["query_points"], np.ones((1, 3), bool))
    scale = np.abs(expected["gradient_2"]).max()
    np.testing.assert_allclose(by_maps.sum((2, 3)) / scale, expected["gradient_2"] / scale, rtol=0, atol=2e-3)


def test_derivatives_are_finite_beside_a_dead_frame(tracker, reference):
    maps, expected = reference
    maps = np.where(np.arange(3)[:, None, None, None] == 1, np.nan, maps)
    found = gradients(tracker, maps, expected["query_points"], np.array([[True, False, True]]))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert (found[1][:, 1] == 0).all()


def test_flow_embedding():
    """Against its definition, one number after the other (seed 0; angles reach 20,000 radians, hence 2e-3)."""
    flow, channels = np.random.default_rng(0).normal(size=(3, 2)) * 10, 16
    for found, (x, y) in zip(flow_embedding(jnp.asarray(flow, jnp.float32), channels), flow, strict=True):
        expected = []
        for position in (x, y):
            for k in range(0, channels, 2):
                expected += [np.sin(position * 1000 * k / channels), np.cos(position * 1000 * k / channels)]
        expected += [x / 518, y / 518, x / 518, y / 518]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)


def test_position_embedding():
    """Against bilinear interpolation in the whole table, at a point between pixels, one beyond two borders (1e-6)."""
    height, width, channels = 5, 7, 12
    frequencies = 10000.0 ** (-np.arange(3) / 3)
    table = np.zeros((height, width, channels))
    for y in range(height):
        for x in range(width):
            table[y, x] = np.concatenate([f(p * frequencies) for p in (x, y) for f in (np.sin, np.cos)])
    points = jnp.asarray([[[3.25, 1.5], [-4.0, 9.0]]])
    between = 0.375 * (table[1, 3] + table[2, 3]) + 0.125 * (table[1, 4] + table[2, 4])
    found = position_embedding(points, height, width, channels)
    np.testing.assert_allclose(found[0], [between, table[4, 0]], rtol=0, atol=1e-6)


def test_frame_0_stays_at_the_queries_and_the_others_move(tracker):
    maps, queries = case(0)
    tracks, visibility, confidence = run(tracker, maps, queries)
    np.testing.assert_array_equal(tracks[:, 0], queries)
    assert np.abs(tracks[:, 1:] - queries[:, None]).max() > 0.5
    for x in (visibility, confidence):
        assert ((x > 0) & (x < 1)).all()


def test_start(tracker):
    """At the queries it changes nothing; elsewhere it does, but for frame 0."""
    maps, queries = case(1)
    start = np.repeat(queries[:, None], FRAMES, axis=1)
    plain = run(tracker, maps, queries)
    assert_close(run(tracker, maps, queries, start=start), plain)
    moved = run(tracker, maps, queries, start=start + 6)[0]
    np.testing.assert_array_equal(moved[:, 0], queries)
    assert np.abs(moved[:, 1:] - plain[0][:, 1:]).max() > 1


def test_dead_frames_influence_nothing(tracker):
    """Two NaN frames, at different places in the two streams: the others' results are those of a shorter clip."""
    maps, queries = case(2)
    order = np.array([[0, 1, 2, 3], [0, 3, 1, 2]])
    dead = np.full((2, 2, *maps.shape[2:]), np.nan, np.float32)
    mixed = np.take_along_axis(np.concatenate([maps[:, :2], dead], axis=1), order[:, :, None, None, None], axis=1)
    live = order < 2
    start = np.where(live[..., None, None], queries[:, None], np.nan).astype(np.float32)
    found = run(tracker, mixed, queries, start=start, live=live)
    expected = run(tracker, maps[:, :2], queries)
    assert_close([x[live] for x in found], [x.reshape(-1, *x.shape[2:]) for x in expected])


def test_streams_of_a_batch_are_independent(tracker):
    maps, queries = case(3)
    both = run(tracker, maps, queries)
    alone = run(tracker, maps[1:], queries[1:])
    assert_close([x[1:] for x in both], alone)
    maps[0] = np.nan
    assert_close([x[1:] for x in run(tracker, maps, queries)], alone)


def test_window_equals_clip_until_a_frame_leaves_it(tracker):
    """Frames t < W one at a time give what the clip 0…t gives its last frame; frame W starts from the frame before."""
    size = 3
    maps, queries = case(4, batch=1, frames=size + 1)
    window = TrackWindow.empty(jnp.asarray(queries), size, HEIGHT, WIDTH, FEATURES)
    window = replace(window, maps=window.maps + jnp.nan)
    for t in range(size + 1):
        frame = jnp.asarray([t])
        window = window.push(frame, maps[:, t])
        start = np.asarray(window.start(frame))
        found = run(tracker, window.maps, queries, start=start, live=window.live(frame))
        slot = int(window.slot(frame)[0])
        if 0 < t < size:
            clip = run(tracker, maps[:, : t + 1], queries)
            assert_close([x[:, slot] for x in found], [x[:, t] for x in clip])
        if t == size:
            before = np.asarray(window.coordinates[:, int(window.slot(frame - 1)[0])])
            np.testing.assert_array_equal(start[:, slot], before)
            assert np.abs(before - queries).max() > 0.1
        window = window.store(jnp.asarray(found[0]))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("feature_maps", (1, 2, 8, 8, FEATURES + 1)),
        ("query_points", (2, 3, 2)),
        ("query_points", (1, 0, 2)),
        ("start", (1, 2, 4, 2)),
        ("live", (2, 1)),
    ],
)
def test_wrong_shapes_are_named(tracker, name, shape):
    good = {"feature_maps": (1, 2, 8, 8, FEATURES), "query_points": (1, 3, 2), "start": (1, 2, 3, 2), "live": (1, 2)}
    with pytest.raises(ValueError, match=f"{name} must be"):
        tracker(**{key: jnp.zeros(shape if key == name else size) for key, size in good.items()})
