"""Cuts in a video, and images that show nothing: exact depth and cameras of two rooms, 56×84, put through `follow`."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax import Predictions, SubmapConfig, geometry
from ivggt_jax.evaluate.walks import FIELD_OF_VIEW, Walk
from ivggt_jax.mapping.pyramid import pyramid, sharpness
from ivggt_jax.mapping.refinement import CERTAIN, Focal
from ivggt_jax.mapping.shots import agreement, details
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


@partial(jax.jit, static_argnums=0)
def one_frame(
    config: SubmapConfig, position: MapState, frames: int, image: jax.Array, prediction: Predictions, again: jax.Array
):
    """Whether the next submap, to which its depth is `again`, begins with a frame, the map after it, and its predictions."""
    levels = pyramid(image)
    due = is_due(config, position, levels, frames)
    alone = jax.tree.map(lambda x: x[None], prediction)
    return due, *follow(config, position, alone, replace(alone, depth=again[None]), levels[None], due)


def mapped(
    images: np.ndarray, predictions: Predictions, again: np.ndarray | None = None, config: SubmapConfig = CONFIG
) -> Predictions:
    """The frames [T,…] in the world, with the map's record; `again` [T,H,W] is the depth that next submaps would give."""
    depths = predictions.depth if again is None else again
    position = jax.tree.map(lambda x: x[0], MapState.empty(config, 1, *SIZE, None))
    found, frames = [], 0
    for i, image in enumerate(images):
        frames += 1
        due, position, moved = one_frame(
            config, position, frames, image, jax.tree.map(lambda x, i=i: x[i], predictions), depths[i]
        )
        found.append(jax.device_get(moved))
        frames = 1 if due else frames
    return jax.tree.map(lambda *x: np.concatenate(x), *found)


def parts(images: np.ndarray, predictions: Predictions, again: np.ndarray | None = None) -> np.ndarray:
    """The part of the map [T] that each frame is put into."""
    return mapped(images, predictions, again).map.part


def joined(
    one: tuple[np.ndarray, Predictions], other: tuple[np.ndarray, Predictions]
) -> tuple[np.ndarray, Predictions]:
    return np.concatenate((one[0], other[0])), jax.tree.map(lambda a, b: jnp.concatenate((a, b)), one[1], other[1])


def taken(video: tuple[np.ndarray, Predictions], which: slice | np.ndarray) -> tuple[np.ndarray, Predictions]:
    return video[0][which], jax.tree.map(lambda x: x[which], video[1])


def to_and_fro(video: tuple[np.ndarray, Predictions], frames: int) -> tuple[np.ndarray, Predictions]:
    """A longer video, of a camera that walks the same way again and again."""
    last = len(video[0]) - 1
    return taken(video, last - np.abs(np.arange(frames) % (2 * last) - last))


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


@pytest.mark.parametrize("room", [0, 1])
def test_a_cut_into_the_room_in_a_mirror(rooms: list[tuple[np.ndarray, Predictions]], room: int):
    """By chance its details agree with the keyframes' by more than other rooms' do, but its first image not with the last one."""
    before, after = taken(rooms[room], slice(10)), taken(rooms[room], slice(16))
    found = parts(*joined(before, (after[0][:, :, ::-1], after[1])))
    assert found.max() == 1
    assert 10 + PATIENCE <= int(np.argmax(found)) <= 10 + 3 * PATIENCE


def test_neighbours_in_a_shot_agree(rooms: list[tuple[np.ndarray, Predictions]]):
    """Also shifted by a sixth of the image, at a third of the light, or with half of it unknown; not with the mirror image."""
    image = rooms[0][0][0]
    shown = details(pyramid(image))

    def alike(other: np.ndarray) -> float:
        return float(agreement(shown, details(pyramid(other))))

    assert alike(image) == pytest.approx(1, abs=1e-5)
    assert alike(np.float32(0.3) * image) == pytest.approx(1, abs=1e-5)
    assert alike(np.roll(image, SIZE[1] // 6, axis=1)) > 0.6
    assert alike(np.where(np.arange(SIZE[1])[:, None] < SIZE[1] // 2, image, np.nan)) > 0.6
    assert alike(image[:, ::-1]) < 0.4
    assert alike(np.full_like(image, np.nan)) == 0


def test_a_cut_that_the_depths_show_is_recorded_as_one(rooms: list[tuple[np.ndarray, Predictions]]):
    """At an anchor, before four images have told it: its link has no share, as after any cut. One that only failed has its own."""
    config = replace(CONFIG, frames=10, delay=0)
    images, predictions = joined(taken(rooms[0], slice(8)), taken(rooms[1], slice(16)))
    noise = np.exp(np.random.default_rng(0).normal(size=predictions.depth.shape)).astype(np.float32)
    found = mapped(images, predictions, predictions.depth * noise, config)
    begins = int(np.argmax(found.map.part))
    assert found.map.part[-1] == 1 and found.map.anchor[9] and begins == 10
    assert found.map.link_share[begins] == 0 == found.map.link_spread[begins]
    images, predictions = rooms[0]
    found = mapped(images, predictions, predictions.depth * noise[: len(images)], config)
    assert found.map.submap[-1] == 2 and not found.map.part.any()
    assert (found.map.link_share[10:] > 0.5).all() and (found.map.link_spread[10:] > 0.3).all()


@pytest.mark.parametrize("frames", [2, 3])
def test_short_submaps_notice_a_cut_too(rooms: list[tuple[np.ndarray, Predictions]], frames: int):
    """Their anchors do not begin the count anew; the depths agree here, so that only the images tell."""
    images, predictions = joined(taken(rooms[0], slice(10)), taken(rooms[1], slice(16)))
    found = mapped(images, predictions, config=replace(CONFIG, frames=frames)).map.part
    assert found[-1] == 1 and 10 + PATIENCE <= int(np.argmax(found)) <= 10 + 3 * PATIENCE


def test_what_the_network_says_of_black_images_is_not_believed(rooms: list[tuple[np.ndarray, Predictions]]):
    """Three of them, of a lens a third longer: the focal length is that of the first image that shows something."""
    images, predictions = rooms[0]
    angles = 2 * np.arctan(np.tan(np.deg2rad(FIELD_OF_VIEW) / 2) * np.array([1, 3 / 4]))
    lens = geometry.intrinsics_from_field_of_view(jnp.asarray(angles)[:, None], *SIZE)
    cameras, _ = geometry.cameras_from_pose(predictions.pose_encoding, *SIZE)
    dark = np.arange(len(images)) < 3
    encoded = geometry.pose_from_cameras(cameras, lens[dark.astype(int)].reshape(-1, 3, 3), *SIZE)
    black = np.where(dark[:, None, None, None], np.float32(0), images)
    found, said = (focals(x) for x in (mapped(black, replace(predictions, pose_encoding=encoded)), predictions))
    assert found[2] == pytest.approx(4 / 3 * said[2], rel=1e-3)
    assert found[3:] == pytest.approx(said[3:], rel=0.1)


def focals(found: Predictions) -> np.ndarray:
    """The focal length [T] along x, in pixels."""
    return np.asarray(geometry.cameras_from_pose(jnp.asarray(found.pose_encoding), *SIZE)[1][:, 0, 0])


def test_after_a_cut_the_lens_may_be_another(rooms: list[tuple[np.ndarray, Predictions]]):
    """The network says a focal length a third longer there: the new part begins with it, not with the estimate before."""
    images, predictions = joined(taken(rooms[0], slice(10)), taken(rooms[1], slice(16)))
    angles = 2 * np.arctan(np.tan(np.deg2rad(FIELD_OF_VIEW) / 2) * np.array([1, 3 / 4]))
    lens = geometry.intrinsics_from_field_of_view(jnp.asarray(angles)[:, None], *SIZE)
    cameras, _ = geometry.cameras_from_pose(predictions.pose_encoding, *SIZE)
    encoded = geometry.pose_from_cameras(cameras, lens[(np.arange(26) >= 10).astype(int)].reshape(-1, 3, 3), *SIZE)
    found = mapped(images, replace(predictions, pose_encoding=encoded))
    begins = int(np.argmax(found.map.part))
    said, before = (focals(replace(predictions, pose_encoding=encoded))[i] for i in (-1, 0))
    assert focals(found)[begins - 1] == pytest.approx(before, rel=0.1)
    assert focals(found)[begins] == pytest.approx(said, rel=0.02)


def test_a_known_focal_length_outlasts_a_cut():
    """Without keyframes, as after a cut, only a length that is not known is taken from the network."""
    known, said = Focal.known(jnp.array([80.0, 80.0])), jnp.diag(jnp.array([60.0, 60.0, 1.0]))
    np.testing.assert_array_equal(known.after(said, jnp.asarray(True)).length, [80, 80])
    np.testing.assert_array_equal(
        replace(known, information=CERTAIN / 2).after(said, jnp.asarray(True)).length, [60, 60]
    )


@pytest.mark.parametrize("light", [0.3, 0.15])
def test_a_map_goes_on_when_the_light_goes_off(rooms: list[tuple[np.ndarray, Predictions]], light: float):
    images, predictions = to_and_fro(rooms[0], 140)
    images[30:] = np.round(255 * light * images[30:]) / 255
    found = mapped(images, predictions).map
    assert found.anchor[-60:].sum() >= 3
    assert found.agreement[-60:].min() > 0.3


def test_a_map_goes_on_after_a_test_card(rooms: list[tuple[np.ndarray, Predictions]]):
    """A checkerboard, 4 pixels wide, whose sharpness is near a hundred times that of the images."""
    images, predictions = to_and_fro(rooms[0], 160)
    rows, columns = np.indices(SIZE) // 4
    images[0] = ((rows + columns) % 2)[..., None]
    found = mapped(images, predictions).map
    assert found.anchor[-60:].sum() >= 3
    assert found.agreement[-60:].min() > 0.3


def test_a_lens_that_is_covered_for_long_shows_nothing(rooms: list[tuple[np.ndarray, Predictions]]):
    """300 dark frames with noise (σ 2 of 255); then the map goes on."""
    images, predictions = to_and_fro(rooms[0], 380)
    noise = np.random.default_rng(0).normal(3, 2, images[30:330].shape)
    images[30:330] = np.round(np.clip(noise, 0, 255)) / 255
    found = mapped(images, predictions).map
    assert found.anchor[:30].any()
    assert not found.anchor[30:330].any()
    assert np.abs(found.agreement[30:330]).max() < 0.3
    assert found.anchor[330:].sum() >= 2
    assert found.agreement[-30:].min() > 0.3


@pytest.mark.parametrize("spread", [1.0, 0.0])
def test_a_lens_that_is_covered_at_first_shows_nothing(rooms: list[tuple[np.ndarray, Predictions]], spread: float):
    """60 dark frames with noise (σ 1 of 255), or exactly black; then one map without a break."""
    images, predictions = to_and_fro(rooms[0], 120)
    noise = np.random.default_rng(0).normal(2 * spread, spread, images[:60].shape)
    images[:60] = np.round(np.clip(noise, 0, 255)) / 255
    found = mapped(images, predictions).map
    assert not found.anchor[:60].any()
    assert found.part.max() == 0
    assert found.anchor[60:].sum() >= 3
    assert found.agreement[-30:].min() > 0.3


def test_images_of_any_size_are_as_sharp():
    """A wave that fills the image, at 56×84 and at six times that."""
    small, large = (
        sharpness(pyramid(0.5 + 0.4 * jnp.sin(jnp.linspace(0, 20, w))[None, :, None] * jnp.ones((h, 1, 3))))
        for h, w in (SIZE, (6 * SIZE[0], 6 * SIZE[1]))
    )
    assert float(large) == pytest.approx(float(small), rel=0.1)
