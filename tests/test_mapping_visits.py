"""Places made of a stream's frames. Values: default_rng(0), images of noise, 40×48."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax.mapping.features import find_features
from ivggt_jax.mapping.places import Place
from ivggt_jax.mapping.state import MapRecord
from ivggt_jax.mapping.visits import PlaceMaker
from ivggt_jax.transforms import Similarity

Fed = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, MapRecord]
NAMES = ("descriptor", "submap_from_cam", "focal", "pixels", "depth", "patches")


def placed(submap: int) -> Similarity:
    turn = Rotation.from_rotvec([0.1 * submap, 0.2, 0]).as_matrix()
    return Similarity(2.0**submap, turn, np.array([1.0, submap, 0]))


def frames(anchors: tuple[int, ...], count: int) -> Iterator[Fed]:
    """The frames of a stream whose submaps after the first begin with these frames; tokens tell their frame's number."""
    rng = np.random.default_rng(0)
    submap = 0
    for number in range(count):
        turn = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
        record = MapRecord(
            submap=submap, part=submap, world_from_submap=placed(submap), anchor=number in anchors, link_share=0.9,
            link_spread=0.1, refined=True, agreement=0.8, token=np.full(4, number, np.float32),
        )  # fmt: skip
        pose = np.concatenate((turn, rng.normal(size=(3, 1))), axis=1)
        image, depth = rng.integers(0, 256, (40, 48, 3), np.uint8), rng.uniform(1, 2, (40, 48)).astype(np.float32)
        yield image, depth, pose, np.array((0.5, 0.625)) + 0.01 * number, record
        submap += number in anchors


def places(fed: list[Fed], maker: PlaceMaker | None = None) -> list[Place]:
    maker = maker or PlaceMaker()
    return [place for frame in fed if (place := maker.feed(*frame)) is not None]


def test_a_place_is_the_anchor_and_two_frames_after_it():
    fed = list(frames((20,), 40))
    found = places(fed)
    assert [(place.submap, place.part) for place in found] == [(0, 0), (1, 1)]
    for place, first in zip(found, (0, 20), strict=True):
        own = [fed[first + offset] for offset in (0, 4, 8)]
        np.testing.assert_array_equal(place.descriptor, np.full(4, first, np.float16))
        assert place.focal == 0.5 + 0.01 * first
        world = placed(place.submap)
        np.testing.assert_allclose(world.poses(place.submap_from_cam), [pose for _, _, pose, *_ in own], atol=1e-12)
        for i, (image, depth, *_) in enumerate(own):
            wanted = find_features(image, depth)
            assert (wanted.depth > 0).any()
            fx, fy = fed[first + 4 * i][3]
            np.testing.assert_allclose(place.pixels[i] / fx, wanted.pixels / (fx, fy), rtol=1e-6)
            np.testing.assert_array_equal(place.patches[i], wanted.patches)
            np.testing.assert_allclose(world.scale * place.depth[i], wanted.depth, rtol=1e-6)


def test_a_submap_that_ends_too_soon_is_no_place():
    assert [place.submap for place in places(list(frames((10, 18, 26), 40)))] == [0, 3]
    assert [place.submap for place in places(list(frames((4, 13), 21)))] == [1]


def test_a_submap_that_shows_another_scene_by_then_is_no_place():
    """After a cut, frames that do not match the keyframes still belong to the old submap. Without refinement agreement is 0."""
    for first, agreement, submaps in (
        (8, 0.05, [1]),
        (4, -0.02, [1]),
        (1, 0.05, [1]),
        (4, 0.0, [0, 1]),
        (9, 0.05, [0, 1]),
    ):
        fed = list(frames((20,), 40))
        for number in range(first, 20):
            fed[number] = unlike(fed[number], agreement)
        assert [place.submap for place in places(fed)] == submaps


@pytest.mark.parametrize(("blurred", "taken"), [((8,), (0, 4, 10)), ((4, 5), (0, 7, 11)), ((2,), (0, 4, 8))])
def test_a_place_leaves_blurred_frames_out(blurred: tuple[int, ...], taken: tuple[int, ...]):
    fed = list(frames((20,), 40))
    for number in blurred:
        fed[number] = unlike(fed[number], 0.05)
    poses = placed(0).poses(places(fed)[0].submap_from_cam)
    np.testing.assert_allclose(poses, [fed[number][2] for number in taken], atol=1e-12)


def test_a_frame_of_another_scene_that_matches_by_chance_makes_no_place():
    """A cut at frame 8, and one match in the twelve frames before it is noticed."""
    for lucky in range(9, 20):
        fed = [
            unlike(frame, 0.05) if 8 <= i < 20 and i != lucky else frame for i, frame in enumerate(frames((20,), 40))
        ]
        assert [place.submap for place in places(fed)] == [1]


def unlike(frame: Fed, agreement: float) -> Fed:
    """The frame, which agrees with the keyframes no more than that."""
    return *frame[:4], replace(frame[4], agreement=agreement)


def late(fed: list[Fed], reading: int) -> list[Fed]:
    """The frames of the same stream when a sensor gives a unit of a quarter of the world's only in frame `reading`."""
    found = []
    for number, (image, depth, pose, focal, record) in enumerate(fed):
        grown = 4.0 if number == reading else 1.0
        if number < reading:
            shorter = Similarity(0.25)
            depth, pose = depth / 4, shorter.poses(pose)
            record = replace(record, world_from_submap=shorter.after(record.world_from_submap))
        found.append((image, depth, pose, focal, replace(record, grown=grown)))
    return found


@pytest.mark.parametrize("reading", [1, 3, 4, 5, 8, 9, 20, 21, 26])
def test_a_unit_that_is_known_late_makes_the_same_places(reading: int):
    """Also of frames before and after the reading, and resumed between them."""
    fed = list(frames((20,), 40))
    changed, wanted = late(fed, reading), places(fed)
    first = PlaceMaker()
    found = places(changed[: reading - 1], first)
    found += places(changed[reading - 1 :], PlaceMaker(first.state()))
    for one, other in zip(found, wanted, strict=True):
        for name in NAMES:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("stopped", range(0, 32))
def test_a_resumed_run_makes_the_same_places(stopped: int):
    fed = list(frames((6, 15), 32))
    wanted = places(fed)
    assert [place.submap for place in wanted] == [1, 2]
    first = PlaceMaker()
    found = places(fed[:stopped], first)
    found += places(fed[stopped:], PlaceMaker({name: array.copy() for name, array in first.state().items()}))
    for one, other in zip(found, wanted, strict=True):
        assert one.submap == other.submap
        for name in NAMES:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
