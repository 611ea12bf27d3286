"""Cuts in a video, found by the images alone: exact depth and cameras of two rooms, 56×84, put through `follow`."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax import Predictions, SubmapConfig, geometry
from ivggt_jax.evaluate.walks import FIELD_OF_VIEW, Walk
from ivggt_jax.mapping.pyramid import pyramid
from ivggt_jax.mapping.state import MapState
from ivggt_jax.mapping.submaps import PATIENCE, follow, is_due
from ivggt_jax.trajectories.alignment import inverse

SIZE = 56, 84
CONFIG = SubmapConfig(frames=16)


def seen(walk: Walk, first: int, frames: int) -> tuple[np.ndarray, Predictions]:
    """Images [T,H,W,3] in [0,1] of a walk, and what a perfect network says of them."""
    part = walk.part(first, frames)
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(FIELD_OF_VIEW), *SIZE)
    cam_from_world = jnp.asarray(inverse(part.world_from_cam), jnp.float32)
    encoded = geometry.pose_from_cameras(cam_from_world, jnp.broadcast_to(intrinsics, (frames, 3, 3)), *SIZE)
    depth = jnp.where(part.depth > 0, part.depth, jnp.nan)
    return part.images / np.float32(255), Predictions(
        pose_encoding=encoded, depth=depth, features=jnp.zeros((frames, 1, 4))
    )


@pytest.fixture(scope="module")
def rooms() -> list[tuple[np.ndarray, Predictions]]:
    return [seen(Walk("loop", seed, *SIZE), 0, 24) for seed in (0, 1)]


@jax.jit
def one_frame(position: MapState, frames: int, image: jax.Array, prediction: Predictions, again: jax.Array):
    """Whether the next submap, to which its depth is `again`, begins with a frame, the map after it, and its predictions."""
    levels = pyramid(image)
    due = is_due(CONFIG, position, levels, frames)
    alone = jax.tree.map(lambda x: x[None], prediction)
    return due, *follow(CONFIG, position, alone, replace(alone, depth=again[None]), levels[None], due)


def parts(images: np.ndarray, predictions: Predictions, again: np.ndarray | None = None) -> np.ndarray:
    """The part of the map [T] that each frame is put into; `again` [T,H,W] is the depth that next submaps would give."""
    depths = predictions.depth if again is None else again
    position = jax.tree.map(lambda x: x[0], MapState.empty(CONFIG, 1, *SIZE, None))
    found, frames = [], 0
    for i, image in enumerate(images):
        frames += 1
        due, position, moved = one_frame(
            position, frames, image, jax.tree.map(lambda x, i=i: x[i], predictions), depths[i]
        )
        found.append(int(moved.map.part[0]))
        frames = 1 if due else frames
    return np.array(found)


def joined(
    one: tuple[np.ndarray, Predictions], other: tuple[np.ndarray, Predictions]
) -> tuple[np.ndarray, Predictions]:
    return np.concatenate((one[0], other[0])), jax.tree.map(lambda a, b: jnp.concatenate((a, b)), one[1], other[1])


def taken(video: tuple[np.ndarray, Predictions], which: slice) -> tuple[np.ndarray, Predictions]:
    return video[0][which], jax.tree.map(lambda x: x[which], video[1])


def test_a_video_without_a_cut_is_one_map(rooms: list[tuple[np.ndarray, Predictions]]):
    for images, predictions in rooms:
        assert not parts(images, predictions).any()


def test_depths_that_disagree_make_no_cut_where_the_images_agree(rooms: list[tuple[np.ndarray, Predictions]]):
    """The logarithm of the next submap's is off by a standard deviation of 1 from pixel to pixel, where 0.3 is sound."""
    images, predictions = rooms[0]
    noise = np.random.default_rng(0).normal(size=predictions.depth.shape)
    assert not parts(images, predictions, (predictions.depth * np.exp(noise)).astype(np.float32)).any()


@pytest.mark.parametrize("at", [9, 10, 11, 12])
def test_a_cut_begins_a_new_part_once(rooms: list[tuple[np.ndarray, Predictions]], at: int):
    """Whichever frame of the four between two keyframes it falls on. It takes longer where the rooms look alike by chance."""
    found = parts(*joined(taken(rooms[0], slice(at)), taken(rooms[1], slice(16))))
    assert found.max() == 1
    assert at + PATIENCE <= int(np.argmax(found)) <= at + 3 * PATIENCE
