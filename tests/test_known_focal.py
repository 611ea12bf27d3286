"""Streams of calibrated cameras; random weights, 28×42 frames, seeds of conftest."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from ivggt_jax import CacheConfig, Model, SubmapConfig, cameras_from_pose, init_stream, reset, scan, stream
from ivggt_jax.runs.resume import Unfinished, read_state, restore_stream, save_state

CACHE = CacheConfig(total_budget=None, max_frames=8)
SUBMAPS = SubmapConfig(frames=4, delay=2, keyframes=2, keyframe_every=2)
FOCAL = np.array([[40.0, 36.0]])


def begin(model: Model, **options):
    options = {"heads": ("camera", "depth"), "focal": FOCAL, **options}
    return init_stream(model, CACHE, height=28, width=42, batch=len(FOCAL), **options)


def test_the_known_focal_length_replaces_what_the_network_says(tiny: Model, videos: np.ndarray) -> None:
    """Depth and points of the point head are stretched along the axis, by known over the mean of what was said."""
    heads = ("camera", "depth", "points")
    _, plain = scan(tiny, begin(tiny, focal=None, heads=heads), videos[:3, :1])
    state, found = scan(tiny, begin(tiny, heads=heads), videos[:3, :1])
    camera, known = cameras_from_pose(found.pose_encoding, 28, 42)
    same, said = cameras_from_pose(plain.pose_encoding, 28, 42)
    np.testing.assert_array_equal(found.pose_encoding[..., :7], plain.pose_encoding[..., :7])
    np.testing.assert_allclose(known[..., (0, 1), (0, 1)], np.broadcast_to(FOCAL, (3, 1, 2)), rtol=1e-5)
    lengths = np.asarray(said)[..., (0, 1), (0, 1)]
    sound = (lengths > 0).all(axis=-1)
    assert 0 < sound.sum() < sound.size, "random weights see half a sphere or more: such frames are not counted"
    logs = np.where(sound[..., None], np.log(np.where(sound[..., None], lengths, 1)), 0)
    mean = np.cumsum(logs, axis=0) / np.maximum(np.cumsum(sound, axis=0), 1)[..., None]
    ratio = np.where(np.cumsum(sound, axis=0) > 0, np.exp((np.log(FOCAL) - mean).mean(axis=-1)), 1)
    np.testing.assert_allclose(found.depth, plain.depth * ratio[..., None, None], rtol=1e-5)
    flat = np.asarray(plain.points) @ np.eye(3)
    in_camera = np.einsum("tbij,tbhwj->tbhwi", same[..., :3], flat) + same[..., None, None, :, 3]
    in_camera[..., 2] *= ratio[..., None, None]
    moved = np.einsum("tbij,tbhwj->tbhwi", camera[..., :3], found.points) + camera[..., None, None, :, 3]
    np.testing.assert_allclose(moved, in_camera, atol=1e-3)
    np.testing.assert_allclose(state.focal.said[0], logs.sum(axis=(0, 1)), rtol=1e-5)
    assert int(state.focal.frames[0]) == sound.sum()
    again = reset(state, np.array([True]))
    assert int(again.focal.frames[0]) == 0
    np.testing.assert_array_equal(again.focal.length, FOCAL)


def test_refinement_does_not_search_what_is_known(tiny: Model, videos: np.ndarray) -> None:
    state, found = scan(tiny, begin(tiny, submaps=SUBMAPS), videos[:8, :1])
    assert int(state.map.submap[0]) >= 1
    _, known = cameras_from_pose(found.pose_encoding, 28, 42)
    np.testing.assert_allclose(known[..., (0, 1), (0, 1)], np.broadcast_to(FOCAL, (8, 1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(state.map.focal.length, FOCAL)
    begun = reset(state, np.array([True]))
    np.testing.assert_array_equal(begun.map.focal.length, FOCAL)
    assert float(begun.map.focal.information[0]) > 1e6


def test_a_saved_stream_knows_its_camera(tiny: Model, videos: np.ndarray, tmp_path: Path) -> None:
    state, _ = scan(tiny, begin(tiny, submaps=SUBMAPS), videos[:2, :1])
    save_state(tmp_path, Unfinished({}, frames=2), state, {})
    saved = read_state(tmp_path)
    assert saved is not None
    restored = restore_stream(tiny, saved, lambda height, width: None)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), restored, state))
    assert restored.settings == dataclasses.replace(state.settings)


def test_a_stream_of_frames_takes_it_too(tiny: Model, videos: np.ndarray) -> None:
    (found,) = stream(tiny, videos[:1, 0], CACHE, heads=("camera", "depth"), focal=FOCAL[0])
    _, known = cameras_from_pose(found.pose_encoding, 28, 42)
    np.testing.assert_allclose(known[(0, 1), (0, 1)], FOCAL[0], rtol=1e-5)


@pytest.mark.parametrize("focal", [np.ones(2), np.array([[40.0, -1.0]]), np.array([[np.nan, 40.0]])])
def test_what_is_no_focal_length(tiny: Model, focal: np.ndarray) -> None:
    with pytest.raises(ValueError, match="focal must be positive lengths"):
        begin(tiny, focal=focal)
