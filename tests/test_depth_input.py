"""A network that is told depth: what it was before without any, and an answer in the sensor's unit.

The tiny golden model with a branch of random weights, frames of 28×42; depth is uniform in [1, 4] with a third left out.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import exact
from streaming import BOUNDED, HEIGHT, WIDTH, assert_close, feed

from ivggt_jax import CacheConfig, Model, SubmapConfig, infer_clip, init_stream, load, reset, save, scan, step, stream
from ivggt_jax.model.parameters import flatten, unflatten
from ivggt_jax.model.sensor import SensorUnit
from ivggt_jax.train.start import extended
from ivggt_jax.weights.tensor_file import CheckpointError

HEADS = ("camera", "depth")
WHOLE = CacheConfig(total_budget=None, max_frames=6, camera_cache="per_iteration")


@pytest.fixture(scope="module")
def branch(tiny: Model) -> Model:
    """The tiny model as training adds the branch, and then with a projection that is not zero any more."""
    params = flatten(extended(tiny, (), True, jax.random.key(0)).params)
    path = "aggregator/depth_patches/mlp/fc2/kernel"
    assert not params[path].any()
    params[path] = jnp.asarray(np.random.default_rng(1).normal(0, 0.05, params[path].shape), jnp.float32)
    return Model(dataclasses.replace(tiny.config, depth_input=True), unflatten(params))


@pytest.fixture(scope="module")
def depth() -> np.ndarray:
    """[T,B,H,W] for six frames of three streams."""
    random = np.random.default_rng(0)
    found = random.uniform(1, 4, (6, 3, HEIGHT, WIDTH)).astype(np.float32)
    return np.where(random.random(found.shape) < 2 / 3, found, 0)


def start(model: Model, cache: CacheConfig = BOUNDED, batch: int = 3, **options):
    return init_stream(model, cache, height=HEIGHT, width=WIDTH, batch=batch, heads=HEADS, **options)


def ratio(measured: np.ndarray, answered: np.ndarray) -> float:
    """Median of what a sensor measured over what the network found, where there is anything."""
    known = np.isfinite(measured) & (measured > 0)
    return float(np.median(measured[known] / np.asarray(answered)[known]))


def assert_equal(found, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


exact_clip = exact(partial(infer_clip, mode="causal", heads=HEADS))


def test_without_depth_the_network_is_what_it_was_to_the_bit(tiny: Model, branch: Model, videos: np.ndarray) -> None:
    """As a clip and as a stream; also where depth comes and says nothing anywhere."""
    images = videos[:3].swapaxes(0, 1)
    expected = exact_clip(tiny, images)
    assert_equal(exact_clip(branch, images), expected)
    nothing = np.full(images.shape[:-1], np.nan, np.float32)
    nothing[0], nothing[1, :, ::2] = -1, np.inf
    assert_equal(exact_clip(branch, images, depth=nothing), expected)
    assert_equal(feed(branch, start(branch), videos[:5])[1], feed(tiny, start(tiny), videos[:5])[1])


def test_a_branch_that_learned_nothing_changes_the_unit_alone(
    tiny: Model, videos: np.ndarray, depth: np.ndarray
) -> None:
    """The factor is the median of measured over answered depth in the first frame; NaN and infinity are left out. To 1e-5."""
    model = extended(tiny, (), True, jax.random.key(0))
    images, told = videos[:3].swapaxes(0, 1), depth[:3].swapaxes(0, 1).copy()
    told[:, :, 0, 0], told[:, :, 1, 0] = np.nan, np.inf
    found, plain = (exact_clip(model, images, depth=x) for x in (told, None))
    factor = np.array([ratio(x[0], y[0]) for x, y in zip(told, plain.depth, strict=True)])[:, None, None, None]
    np.testing.assert_allclose(found.depth, factor * plain.depth, rtol=1e-5)
    np.testing.assert_allclose(found.pose_encoding[..., :3], factor[..., 0] * plain.pose_encoding[..., :3], rtol=1e-5)
    assert_equal(
        (found.pose_encoding[..., 3:], found.depth_confidence), (plain.pose_encoding[..., 3:], plain.depth_confidence)
    )


def test_a_stream_is_told_as_a_causal_clip_is(branch: Model, videos: np.ndarray, depth: np.ndarray) -> None:
    """Stream 0 has depth from the first frame on, stream 1 from the third, stream 2 never; steps, scan and clip to 1e-4."""
    told = depth.copy()
    told[:2, 1], told[:, 2] = 0, 0
    clip = infer_clip(branch, videos[:6].swapaxes(0, 1), "causal", heads=HEADS, depth=told.swapaxes(0, 1))
    plain = infer_clip(branch, videos[:6].swapaxes(0, 1), "causal", heads=HEADS)
    state, found = scan(branch, start(branch, WHOLE), videos[:6], depth=told)
    assert_close(
        (found.depth, found.pose_encoding), (clip.depth.swapaxes(0, 1), clip.pose_encoding.swapaxes(0, 1)), 1e-4
    )
    one_by_one = start(branch, WHOLE)
    for frame in range(3):
        one_by_one, seen = step(branch, one_by_one, videos[frame], depth=told[frame])
        assert_close(seen.depth, found.depth[frame], 1e-4)
    assert_close(clip.depth[2], plain.depth[2], 1e-5)
    assert_close(clip.depth[1, :2], plain.depth[1, :2], 1e-5)
    assert np.abs(clip.depth[1, 2:] - plain.depth[1, 2:]).max() > 1e-2, "what is told later has its effect"
    first = np.median(told[0, 0][told[0, 0] > 0]), np.median(told[2, 1][told[2, 1] > 0]), 0
    np.testing.assert_allclose(state.sensor.told, first, rtol=1e-6)
    np.testing.assert_array_equal(state.sensor.given[1:], 1)
    assert ratio(told[0, 0], found.depth[0, 0]) == pytest.approx(1, rel=1e-5), (
        "what is answered is in the sensor's unit"
    )


def test_answers_are_in_the_unit_of_the_sensor(branch: Model, videos: np.ndarray, depth: np.ndarray) -> None:
    """Feet instead of metres: all lengths by the same factor, nothing else, to 1e-4."""
    images, told = videos[:3].swapaxes(0, 1), depth[:3].swapaxes(0, 1)
    metres, feet = (infer_clip(branch, images, heads=HEADS, depth=x * told) for x in (1, 3.28084))
    np.testing.assert_allclose(feet.depth, 3.28084 * metres.depth, rtol=1e-4)
    np.testing.assert_allclose(feet.pose_encoding[..., 3:], metres.pose_encoding[..., 3:], atol=1e-4)


def test_a_stream_that_starts_afresh_has_a_new_unit(branch: Model, videos: np.ndarray, depth: np.ndarray) -> None:
    """And one that is left out of a step keeps its own."""
    state = start(branch)
    state, _ = step(branch, state, videos[0], depth=depth[0], where=np.array([True, True, False]))
    first = [np.median(x[x > 0]) for x in depth[0]]
    np.testing.assert_allclose(state.sensor.told, [*first[:2], 0], rtol=1e-6)
    state = reset(state, np.array([True, False, False]))
    state, found = step(branch, state, videos[1], depth=7 * depth[1])
    again = [7 * np.median(x[x > 0]) for x in depth[1]]
    np.testing.assert_allclose(state.sensor.told, [again[0], first[1], again[2]], rtol=1e-6)
    ratios = [ratio(7 * x, y) for x, y in zip(depth[1], found.depth, strict=True)]
    assert ratios[::2] == pytest.approx([1, 1], rel=1e-5) and ratios[1] != pytest.approx(1, rel=0.1)
    fresh, expected = step(branch, start(branch), videos[1], depth=7 * depth[1])
    assert_close(found.depth[0], expected.depth[0], 1e-4)


@pytest.mark.slow
def test_with_submaps_the_map_is_in_the_sensors_unit(branch: Model, videos: np.ndarray) -> None:
    """Every submap is told in a unit of its own; the sensor measures twice what the network would say, a bit off (seed 0)."""
    submaps = SubmapConfig(frames=4, refine=False)
    _, plain = scan(branch, start(branch, batch=1, submaps=submaps), videos[:6, :1])
    noise = np.random.default_rng(0).normal(1, 0.02, plain.depth.shape).astype(np.float32)
    told = 2 * np.asarray(plain.depth) * noise
    state, found = scan(branch, start(branch, batch=1, submaps=submaps), videos[:6, :1], depth=told)
    assert int(state.map.submap[0]) == 1, "the stream has begun its second submap"
    assert np.asarray(found.map.measured).all()
    assert [ratio(*pair) for pair in zip(told, found.depth, strict=True)] == pytest.approx([1] * 6, rel=0.01)


@pytest.mark.slow
def test_depth_of_a_stream_comes_beside_its_frames(branch: Model, videos: np.ndarray, depth: np.ndarray) -> None:
    """Frames without are None; two frames at a time, an odd number of them. To 1e-5."""
    told: list[np.ndarray | None] = [depth[0, 0], None, depth[2, 0], None, depth[4, 0]]
    found = list(stream(branch, videos[:5, 0], BOUNDED, chunk=2, heads=HEADS, depth=told))
    maps = np.stack([np.zeros((HEIGHT, WIDTH), np.float32) if x is None else x for x in told])
    _, expected = scan(branch, start(branch, batch=1), videos[:5, :1], depth=maps[:, None])
    assert_close(np.stack([x.depth for x in found]), expected.depth[:, 0], 1e-5)
    with pytest.raises(ValueError, match="depth ended before the frames"):
        list(stream(branch, videos[:3, 0], BOUNDED, heads=HEADS, depth=told[:2]))
    with pytest.raises(ValueError, match=r"depth must be \[28, 42\] like its frame, not \[14, 42\]"):
        list(stream(branch, videos[:1, 0], BOUNDED, heads=HEADS, depth=[depth[0, 0, :14]]))


def test_depth_that_cannot_be_told_is_refused(
    tiny: Model, branch: Model, videos: np.ndarray, depth: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="this one is not: its configuration has no depth_input"):
        step(tiny, start(tiny), videos[0], depth=depth[0])
    with pytest.raises(ValueError, match=r"depth must be floats \[3, 28, 42\], not float32 \[3, 28, 41\]"):
        step(branch, start(branch), videos[0], depth=depth[0, :, :, 1:])
    with pytest.raises(ValueError, match=r"depth must be floats .*, not uint16"):
        infer_clip(branch, videos[:1].swapaxes(0, 1), depth=depth[:1].swapaxes(0, 1).astype(np.uint16))
    with pytest.raises(ValueError, match="another model: depth_input=True, not False"):
        step(tiny, start(branch), videos[0])


def test_a_unit_is_that_of_the_first_depth_among_frames_that_share_a_pass() -> None:
    """Two streams of three frames of 1×2; the second's first frame has none. The median of two is their mean.

    Only of a stream's first frame is it asked what the network answered, 4 and 2 where 2 and 4 were measured.
    """
    depth = jnp.asarray([[[[2.0, 4.0]], [[8.0, 8.0]], [[1.0, 0.0]]], [[[0.0, 0.0]], [[jnp.nan, 5.0]], [[9.0, 9.0]]]])
    unit = SensorUnit.empty(2).after(depth)
    np.testing.assert_array_equal(unit.told, [3, 5])
    np.testing.assert_allclose(unit.relative(depth)[1], [[[0, 0]], [[0, 1]], [[1.8, 1.8]]])
    assert_equal(unit.after(2 * depth), unit)
    answers = jnp.broadcast_to(jnp.asarray([4.0, 2.0]), depth.shape)
    np.testing.assert_allclose(unit.answered(depth, answers, jnp.asarray([0, 0])).given, [1.25, 1])
    np.testing.assert_array_equal(unit.answered(depth, answers, jnp.asarray([1, 3])).given, [1, 1])


def test_a_checkpoint_says_whether_it_can_be_told(tiny: Model, branch: Model, tmp_path: Path) -> None:
    """One of a time before the field loads as it did; a value that is no truth value is named."""
    save(branch, tmp_path / "told")
    assert load(tmp_path / "told").config.depth_input
    assert_equal(load(tmp_path / "told").params, branch.params)
    save(tiny, tmp_path / "plain")
    place = tmp_path / "plain" / "config.json"
    content = json.loads(place.read_text())
    assert content["model"].pop("depth_input") is False
    place.write_text(json.dumps(content))
    assert load(tmp_path / "plain").config == tiny.config
    place.write_text(json.dumps(content | {"model": content["model"] | {"depth_input": 1}}))
    with pytest.raises(CheckpointError, match="depth_input is 1, expected true or false"):
        load(tmp_path / "plain")
    place.write_text(json.dumps(content | {"model": content["model"] | {"depth_input": True}}))
    with pytest.raises(CheckpointError, match="missing aggregator/depth_patches/mlp/fc1/bias"):
        load(tmp_path / "plain")
