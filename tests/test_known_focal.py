"""Streams of calibrated cameras; random weights, 28×42 frames, seeds of conftest."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streaming import feed

from ivggt_jax import CacheConfig, Model, Predictions, SubmapConfig, cameras_from_pose, init_stream, reset, stream
from ivggt_jax.runs.resume import Unfinished, read_state, restore_stream, save_state
from ivggt_jax.streaming.known_focal import KnownFocal

CACHE = CacheConfig(total_budget=None, max_frames=8)
SUBMAPS = SubmapConfig(frames=4, delay=2, keyframes=2, keyframe_every=2)
FOCAL = np.array([[40.0, 36.0]])


def begin(model: Model, **options):
    options = {"heads": ("camera", "depth"), "focal": FOCAL, **options}
    return init_stream(model, CACHE, height=28, width=42, batch=len(FOCAL), **options)


def test_the_known_focal_length_replaces_what_was_said() -> None:
    """Depth and points of the point head are stretched along the axis, by known over the mean of what was said; seed 0.

    Five frames, of which the third says a view of more than half a sphere, and is not counted.
    """
    rng = np.random.default_rng(0)
    said = np.exp(rng.normal(np.log(40), 0.1, (5, 2))).astype(np.float32)
    view = 2 * np.arctan(np.array([28, 42]) / 2 / said[:, ::-1])
    view[2] = 3.5
    turn = rng.normal(size=(5, 4)) * 0.1 + (0, 0, 0, 1)
    pose = np.concatenate((rng.normal(size=(5, 3)), turn, view), axis=1).astype(np.float32)
    depth, points = rng.uniform(1, 5, (5, 28, 42)), rng.normal(size=(5, 28, 42, 3))
    known, found = KnownFocal.of(jnp.asarray(FOCAL, jnp.float32)), []
    for start, end in ((0, 2), (2, 5)):  # as two passes, of two and of three frames
        part = slice(start, end)
        given = Predictions(
            pose_encoding=jnp.asarray(pose[None, part]),
            depth=jnp.asarray(depth[None, part]),
            points=jnp.asarray(points[None, part]),
        )
        known, corrected = known.corrected(given)
        found.append(corrected)
    logs = np.log(np.delete(said, 2, axis=0))
    assert int(known.frames[0]) == 4
    np.testing.assert_allclose(known.mean[0], logs.mean(axis=0), rtol=1e-5)
    # Each frame sees itself and those before it, in its own pass, too; the third says nothing.
    means = [logs[:count].mean(axis=0) for count in (1, 2, 2, 3, 4)]
    ratio = np.exp([(np.log(FOCAL[0]) - mean).mean() for mean in means])
    got = {
        name: np.concatenate([np.asarray(getattr(p, name))[0] for p in found])
        for name in ("pose_encoding", "depth", "points")
    }
    np.testing.assert_allclose(got["depth"], depth * ratio[:, None, None], rtol=1e-5)
    np.testing.assert_array_equal(got["pose_encoding"][:, :7], pose[:, :7])
    camera, matrix = (np.asarray(x) for x in cameras_from_pose(jnp.asarray(got["pose_encoding"]), 28, 42))
    np.testing.assert_allclose(matrix[:, (0, 1), (0, 1)], np.tile(FOCAL, (5, 1)), rtol=1e-5)
    before, after = (
        np.einsum("tij,thwj->thwi", camera[..., :3], x) + camera[:, None, None, :, 3] for x in (points, got["points"])
    )
    before[..., 2] *= ratio[:, None, None]
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_the_mean_is_as_good_after_five_hours() -> None:
    """500,000 frames that say 450 pixels, give or take 2 %: 30 a second. A sum in float32 is off by 1 % by then."""

    def frame(known: KnownFocal, number: jax.Array) -> tuple[KnownFocal, None]:
        said = 450 * jnp.exp(0.02 * jnp.sin(2.4 * number))
        mean, frames = known._counted(jnp.full((1, 1, 2), said))
        return replace(known, mean=mean[:, -1], frames=frames[:, -1]), None

    known, _ = jax.lax.scan(frame, KnownFocal.of(jnp.full((1, 2), 450.0)), jnp.arange(500_000))
    np.testing.assert_allclose(np.exp(known.mean), 450, rtol=1e-4)


def test_a_stream_believes_it_and_begins_again_with_it(tiny: Model, videos: np.ndarray) -> None:
    """Random weights see more than half a sphere, which counts for nothing and leaves depth as it is."""
    _, plain = feed(tiny, begin(tiny, focal=None), videos[:3, :1])
    state, found = feed(tiny, begin(tiny), videos[:3, :1])
    _, matrix = cameras_from_pose(found.pose_encoding, 28, 42)
    np.testing.assert_allclose(matrix[..., (0, 1), (0, 1)], np.broadcast_to(FOCAL, (3, 1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(found.pose_encoding[..., :7], plain.pose_encoding[..., :7])
    np.testing.assert_allclose(found.depth, plain.depth, rtol=1e-6)
    assert int(state.focal.frames[0]) == 0
    again = reset(state, np.array([True]))
    np.testing.assert_array_equal(again.focal.length, FOCAL)


def test_refinement_does_not_search_what_is_known(tiny: Model, videos: np.ndarray) -> None:
    state, found = feed(tiny, begin(tiny, submaps=SUBMAPS), videos[:8, :1])
    assert int(state.map.submap[0]) >= 1
    _, known = cameras_from_pose(found.pose_encoding, 28, 42)
    np.testing.assert_allclose(known[..., (0, 1), (0, 1)], np.broadcast_to(FOCAL, (8, 1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(state.map.focal.length, FOCAL)
    begun = reset(state, np.array([True]))
    np.testing.assert_array_equal(begun.map.focal.length, FOCAL)
    assert float(begun.map.focal.information[0]) > 1e6


def test_a_saved_stream_knows_its_camera(tiny: Model, videos: np.ndarray, tmp_path: Path) -> None:
    state, _ = feed(tiny, begin(tiny, submaps=SUBMAPS), videos[:2, :1])
    save_state(tmp_path, Unfinished({}, frames=2), state, {})
    saved = read_state(tmp_path)
    assert saved is not None
    restored = restore_stream(tiny, saved, lambda height, width: None)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert restored.settings == state.settings


def test_a_stream_of_frames_takes_it_too(tiny: Model, videos: np.ndarray) -> None:
    (found,) = stream(tiny, videos[:1, 0], CACHE, heads=("camera", "depth"), focal=FOCAL[0])
    _, known = cameras_from_pose(found.pose_encoding, 28, 42)
    np.testing.assert_allclose(known[(0, 1), (0, 1)], FOCAL[0], rtol=1e-5)


def test_a_compiled_program_may_begin_with_one(tiny: Model) -> None:
    state = jax.jit(lambda focal: begin(tiny, focal=focal))(np.asarray(FOCAL, np.float32))
    np.testing.assert_allclose(state.focal.length, FOCAL)


@pytest.mark.parametrize("focal", [np.ones(2), np.array([[40.0, -1.0]]), np.array([[np.nan, 40.0]])])
def test_what_is_no_focal_length(tiny: Model, focal: np.ndarray) -> None:
    with pytest.raises(ValueError, match="focal must be positive lengths"):
        begin(tiny, focal=focal)
