"""The unit of a map by a depth sensor, and fused depth; seed 0, 84×112 pixels, a smooth scene of 1 to 5 metres."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax import CacheConfig, Model, SubmapConfig, cameras_from_pose, init_stream, reset, scan, stream
from ivggt_jax.mapping.metric import WINDOW, Metric, Reading, Sensed, combine, fuse, read

HEIGHT, WIDTH = 84, 112
RNG = np.random.default_rng(0)
TRUE = (3 + 1.5 * np.sin(np.arange(WIDTH) / 25) + 0.5 * np.cos(np.arange(HEIGHT) / 20)[:, None]).astype(np.float32)
HOLES = np.zeros((HEIGHT, WIDTH), bool)
HOLES[5:12, 90:98] = HOLES[40:48, 95:101] = True
NOISY = TRUE * (1 + 0.02 * RNG.normal(size=TRUE.shape).astype(np.float32))
MEASURED = np.where(HOLES | (TRUE > 4), 0, NOISY).astype(np.float32)
BENT = (TRUE / 2.5 * np.exp(0.15 * np.cos(np.arange(WIDTH) / 30))).astype(np.float32)
"""What a network might predict: in a unit of 2.5 metres, and up to 15 % wrong along the width."""
STILL = np.ones((HEIGHT, WIDTH), bool)
NOTHING = np.full((HEIGHT, WIDTH), np.nan, np.float32)
MIXED = RNG.permutation(NOISY.reshape(-1)).reshape(TRUE.shape) * np.exp(RNG.normal(size=TRUE.shape)).astype(np.float32)
"""Each pixel's from another place, as of a sensor that is not registered."""


def one(metric: Metric | None = None) -> Metric:
    return jax.tree.map(lambda x: x[0], Metric.empty(1)) if metric is None else metric


def reading(
    metric: Metric | None = None, measured=MEASURED, predicted=BENT, before=NOTHING, still=STILL, frame=7
) -> Reading:
    return read(one(metric), *map(jnp.asarray, (measured, predicted, before, still, frame)))


def fused(found: Reading, before=NOTHING, predicted=BENT) -> np.ndarray:
    return np.asarray(combine(found, *map(jnp.asarray, (before, predicted, STILL)))[0])


def error(depth, where) -> float:
    return float(np.mean(np.abs(np.asarray(depth) - TRUE)[where] / TRUE[where]))


def test_the_first_reading_decides_and_everything_before_it_grows() -> None:
    found = reading()
    assert bool(found.used) and int(found.metric.first) == 7 and int(found.metric.readings) == 1
    seen = MEASURED > 0
    assert float(found.factor) == pytest.approx(np.median((MEASURED / BENT)[seen]), rel=1e-4)
    assert float(found.grown) == float(found.factor)
    assert int(found.metric.compared) == 0 and float(found.metric.surprise) == 0


def test_later_ones_move_the_unit_by_their_share() -> None:
    metric, scale = one(), jnp.asarray(1.0)
    for number in range(6):
        found = reading(metric, predicted=scale * TRUE / 2, measured=TRUE * (1.0 if number else 1.1), frame=number)
        metric, scale = found.metric, scale * found.factor
        if number == 0:
            assert float(scale) == pytest.approx(2.2, rel=1e-3)
        if number == 1:
            assert float(scale) == pytest.approx(2.2 / 1.1**0.5, rel=1e-3), "the mean of two"
    assert 2.0 < float(scale) < 2.04
    assert int(metric.recent) == WINDOW and int(metric.compared) == 5
    wanted = [np.log(1.1) * factor for factor in (1, 1 / 2, 1 / 3, 1 / 4, 3 / 16)]
    assert float(metric.surprise) == pytest.approx(np.sum(np.square(wanted)), rel=1e-3)
    kept = metric.anchored(jnp.asarray(False))
    assert 0 < int(kept.recent) < WINDOW and int(metric.anchored(jnp.asarray(True)).recent) == 0


def test_fused_depth_is_the_sensors_where_it_has_measured_and_drawn_to_it_elsewhere() -> None:
    found = reading()
    depth, seen = fused(found), MEASURED > 0
    np.testing.assert_array_equal(depth[seen], MEASURED[seen])
    assert error(depth, HOLES & (TRUE < 4)) < 0.4 * error(found.factor * BENT, HOLES & (TRUE < 4))
    assert np.isfinite(depth).all()
    nowhere = np.asarray(fuse(jnp.zeros((HEIGHT, WIDTH)), jnp.asarray(TRUE))[0])
    np.testing.assert_allclose(nowhere, TRUE, rtol=1e-6)


def test_a_speck_is_not_believed_and_a_surface_is() -> None:
    """A pixel alone at half the depth; five by five at half the depth, where the network has missed something."""
    speck, surface = NOISY.copy(), NOISY.copy()
    speck[14, 20] /= 2
    surface[12:17, 18:23] /= 2
    found = np.asarray(fuse(jnp.asarray(speck), jnp.asarray(TRUE))[0])
    assert found[14, 20] == pytest.approx(TRUE[14, 20], rel=0.05)
    np.testing.assert_array_equal(
        np.asarray(fuse(jnp.asarray(surface), jnp.asarray(TRUE))[0])[13:16, 19:22], surface[13:16, 19:22]
    )


@pytest.mark.parametrize(
    "measured",
    [np.zeros_like(TRUE), np.full_like(TRUE, np.nan), -TRUE, np.where(np.arange(WIDTH) == 3, np.inf, 0) * TRUE],
)
def test_depth_that_says_nothing_changes_nothing(measured: np.ndarray) -> None:
    found = reading(measured=measured)
    assert not bool(found.used) and int(found.metric.readings) == 0 and int(found.metric.first) == -1
    np.testing.assert_allclose(fused(found), BENT, rtol=1e-6)
    assert float(found.factor) == 1 and float(found.grown) == 1


def test_depth_of_another_scene_is_not_used() -> None:
    assert not bool(reading(measured=MIXED).used)
    moving = np.where(STILL & (np.arange(WIDTH) < 3), True, False)
    assert float(reading(still=moving, measured=np.where(moving, 2 * TRUE, 9 * TRUE)).factor) == pytest.approx(
        5, rel=0.2
    )


def test_a_sensor_that_agrees_with_itself_is_used_where_the_network_is_of_no_use() -> None:
    """In the unit that it had: half as long, it is another sensor's. And as long as most agreed with the network before."""
    metric = one()
    for _ in range(WINDOW):
        metric = reading(metric).metric
    assert not bool(reading(metric, predicted=MIXED).used)
    again = np.where(RNG.random(TRUE.shape) < 0.5, TRUE, np.nan).astype(np.float32)
    assert bool(reading(metric, predicted=MIXED, before=again).used)
    assert not bool(reading(metric, predicted=MIXED, before=again / 2).used)
    assert not bool(reading(metric, predicted=MIXED, measured=RNG.permutation(MIXED), before=again).used)
    assert not bool(reading(predicted=MIXED, before=again).used), "none agreed yet"
    for number in range(2 * WINDOW):
        found = reading(metric, predicted=MIXED, before=again)
        metric = found.metric
        assert bool(found.used) == (number <= WINDOW)
    assert (int(metric.measured), int(metric.agreed)) == (3 * WINDOW, WINDOW)


def test_holes_are_filled_by_what_was_measured_before() -> None:
    """Also the whole of a frame without depth. A speck among it is not believed."""
    before = np.where(HOLES, TRUE, NOTHING)
    depth = fused(reading(), before)
    np.testing.assert_array_equal(depth[HOLES], TRUE[HOLES])
    np.testing.assert_array_equal(depth[MEASURED > 0], MEASURED[MEASURED > 0])
    before[60, 60] = TRUE[60, 60] / 3
    alone = fused(reading(measured=np.zeros_like(TRUE)), before, 2.5 * BENT)
    np.testing.assert_array_equal(alone[HOLES], TRUE[HOLES])
    assert alone[60, 60] > 0.5 * TRUE[60, 60]


def test_what_moves_is_not_carried_on() -> None:
    still = (np.arange(HEIGHT)[:, None] > 40) | (MEASURED == 0)
    found = reading(still=still)
    kept = np.asarray(combine(found, *map(jnp.asarray, (NOTHING, found.factor * BENT, still)))[1])
    assert (MEASURED[~still] > 0).any() and np.isnan(kept[~still]).all()
    np.testing.assert_array_equal(np.isfinite(kept[still]), MEASURED[still] > 0)


def test_what_was_measured_is_seen_from_elsewhere() -> None:
    """A wall two metres away, half of it measured, from a camera that has come 0.5 metres nearer and turned by nothing."""
    intrinsics = jnp.asarray([[100.0, 0, WIDTH / 2], [0, 100.0, HEIGHT / 2], [0, 0, 1]])
    wall = jnp.where(jnp.arange(WIDTH) < WIDTH / 2, 2.0, jnp.nan) * jnp.ones((HEIGHT, 1))
    nearer = jnp.eye(3, 4).at[2, 3].set(0.5)
    found = np.asarray(Sensed(wall, jnp.eye(3, 4)).seen_from(nearer, intrinsics))
    seen = np.isfinite(found)
    np.testing.assert_allclose(found[seen], 1.5, rtol=1e-5)
    assert not seen[:, 57:].any() and 0.5 < seen[:, :56].mean() < 0.7, "the pixels lie 4/3 as far apart, both ways"
    assert np.isnan(
        np.asarray(Sensed(wall, jnp.eye(3, 4)).seen_from(jnp.eye(3, 4).at[2, 3].set(3.0), intrinsics))
    ).all()


CACHE = CacheConfig(total_budget=None, max_frames=8)
SUBMAPS = SubmapConfig(frames=4, delay=2, refine=False, keyframes=2, keyframe_every=2)


def test_a_stream_is_metric_from_its_first_reading_on(tiny: Model, videos: np.ndarray) -> None:
    """Depth of the second of two streams, three times the network's, first in frame 1; random weights."""
    plain, wanted = scan(tiny, begin(tiny), videos[:8, :2])
    depth = np.zeros((8, 2, 28, 42), np.float32)
    depth[1:, 1] = 3 * np.asarray(wanted.depth[1:, 1])
    state, found = scan(tiny, begin(tiny), videos[:8, :2], depth=depth)
    np.testing.assert_allclose(found.depth[:, 0], wanted.depth[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.depth[0, 1], wanted.depth[0, 1], rtol=1e-5)
    np.testing.assert_allclose(found.depth[1:, 1], depth[1:, 1], rtol=1e-4)
    cameras, metres = (np.asarray(cameras_from_pose(p.pose_encoding, 28, 42)[0]) for p in (wanted, found))
    np.testing.assert_allclose(metres[2:, 1, :, 3], 3 * cameras[2:, 1, :, 3], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(state.map.world_from_model.scale[1], 3 * plain.map.world_from_model.scale[1], rtol=1e-4)
    assert state.map.metric.first.tolist() == [-1, 1] and state.map.metric.readings.tolist() == [0, 7]
    assert np.asarray(found.map.measured).sum(axis=0).tolist() == [0, 7]
    np.testing.assert_allclose(found.map.grown, np.where(np.arange(16).reshape(8, 2) == 3, 3, 1), rtol=1e-4)
    assert wanted.map.measured is None
    assert wanted.map.grown is None
    assert reset(state, np.array([True, True])).map.metric.first.tolist() == [-1, -1]


def begin(model: Model, **options):
    options = {"submaps": SUBMAPS, **options}
    return init_stream(model, CACHE, height=28, width=42, batch=2, heads=("camera", "depth"), **options)


def test_some_frames_of_a_stream_have_depth(tiny: Model, videos: np.ndarray) -> None:
    depths = [None, np.full((28, 42), 2.0, np.float32), None]
    options = {"heads": ("camera", "depth"), "submaps": SUBMAPS}
    found = list(stream(tiny, videos[:3, 0], CACHE, depth=depths, **options))
    assert [bool(p.map.measured) for p in found] == [False, True, False]
    with pytest.raises(ValueError, match="depth ended before the frames"):
        list(stream(tiny, videos[:3, 0], CACHE, depth=depths[:2], **options))
    millimetres = [np.full((28, 42), 2000, np.uint16), None]
    with pytest.raises(ValueError, match="depth must be floats, in metres, not uint16"):
        list(stream(tiny, videos[:2, 0], CACHE, chunk=2, depth=millimetres, **options))


@pytest.mark.parametrize(
    ("depth", "options", "words"),
    [
        (np.ones((8, 2, 28, 41), np.float32), {}, r"depth must be floats \[8, 2, 28, 42\]"),
        (np.ones((8, 2, 28, 42), np.uint16), {}, "depth must be floats"),
        (np.ones((8, 2, 28, 42), np.float32), {"submaps": None}, "whose map it makes metric"),
    ],
)
def test_depth_that_cannot_be(tiny: Model, videos: np.ndarray, depth: np.ndarray, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scan(tiny, begin(tiny, **options), videos[:8, :2], depth=depth)
