"""Loops on textured walls whose answer is known: corners, their registration, and what is proposed and proved.

Walls are sums of random sines (default_rng of the wall's number), seen at 84×112 with exact depth and cameras.
"""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from ivggt_jax import geometry
from ivggt_jax.mapping import loops
from ivggt_jax.mapping.features import MOST, SIDE, find_features
from ivggt_jax.mapping.loops import LoopConfig, Proof, Scores, propose, prove
from ivggt_jax.mapping.places import Place, Places, place_type
from ivggt_jax.mapping.registration import register
from ivggt_jax.transforms import Similarity, rotation_angle

HEIGHT, WIDTH, FOCAL = 84, 112, 93.0
INTRINSICS = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
NORMAL, DISTANCE = np.array([0.3, -0.2, 1.0]), 4.0
"""The wall: points x with NORMAL · x = DISTANCE."""
WORLD_FROM_SUBMAP = (
    Similarity(2.0, Rotation.from_rotvec([0.3, 0.2, -0.1]).as_matrix(), np.array([1.0, 2, 3])),
    Similarity(1.6, Rotation.from_rotvec([-0.2, 0.5, 0.3]).as_matrix(), np.array([-2.0, 0, 1])),
)


def look(world_from_cam: np.ndarray, wall: int, height: int = HEIGHT) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H,W,3] and depth [H,W] of a wall."""
    size = height, height * WIDTH // HEIGHT
    scaled = np.diag([height / HEIGHT, height / HEIGHT, 1]) @ INTRINSICS
    rays = np.asarray(geometry.pixel_rays(jnp.asarray(scaled, jnp.float32), *size), np.float64)
    rays = rays @ world_from_cam[:, :3].T
    depth = (DISTANCE - NORMAL @ world_from_cam[:, 3]) / (rays @ NORMAL)
    points = world_from_cam[:, 3] + depth[..., None] * rays
    rng = np.random.default_rng(wall)
    waves = rng.normal(0, 6, (60, 2))
    shade = np.cos(points[..., :2] @ waves.T + rng.uniform(0, 2 * np.pi, 60)) @ rng.normal(0, 1, 60)
    return np.clip(128 + 12 * shade[..., None] * np.array([1.0, 0.9, 0.8]), 0, 255).astype(np.uint8), depth


def camera(x: float, y: float, yaw: float) -> np.ndarray:
    """world_from_cam [3,4]; yaw in degrees."""
    turn = Rotation.from_euler("y", yaw, degrees=True).as_matrix()
    return np.concatenate((turn, np.array([[x], [y], [0.0]])), axis=1)


VISITS = (
    [camera(0.05 * i, 0.02 * i, 1.0 * i) for i in range(3)],
    [camera(0.5 - 0.04 * i, 0.2, -6 + i) for i in range(3)],
)
"""Cameras of two visits, from half a metre and six degrees apart."""


def visit(number: int, wall: int = 0, gain: float = 1.0, offset: float = 0.0, height: int = HEIGHT) -> Place:
    """One of `VISITS`, as a submap with an origin and unit of its own, in another light."""
    own = WORLD_FROM_SUBMAP[number].inverse()
    found = []
    for pose in VISITS[number]:
        image, depth = look(pose, wall, height)
        lit = np.clip(gain * image + offset, 0, 255).astype(np.uint8)
        found.append(find_features(lit, (own.scale * depth).astype(np.float32)))
    return Place(
        submap=7 * number,
        part=0,
        descriptor=np.random.default_rng(number).normal(size=4).astype(np.float16),
        submap_from_cam=own.poses(np.stack(VISITS[number])),
        focal=np.array(FOCAL / WIDTH),
        **{name: np.stack([getattr(x, name) for x in found]) for name in ("pixels", "depth", "patches")},
    )


def errors(found: Similarity) -> tuple[float, float, float]:
    """Degrees, length in the first submap's unit, and logarithm of the scale by which the loop of the visits is wrong."""
    wanted = WORLD_FROM_SUBMAP[0].inverse().after(WORLD_FROM_SUBMAP[1])
    turn = np.degrees(rotation_angle(found.rotation.T @ wanted.rotation))
    shift = np.linalg.norm(found.translation - wanted.translation)
    return float(turn), float(shift), float(abs(np.log(found.scale / wanted.scale)))


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.5, 10.0), (0.7, -20.0)])
def test_two_visits_of_one_place_are_a_loop_in_any_light(gain: float, offset: float):
    """Corners are found to the whole pixel and dim light rounds detail away: to 1°, 1 % of the depth, 2 % of the scale."""
    proof = prove(visit(0), visit(1, gain=gain, offset=offset), 0.5, FOCAL / WIDTH, LoopConfig())
    assert (proof.a, proof.b, proof.verdict) == (0, 7, "accepted")
    turn, shift, scale = errors(proof.a_from_b)
    assert turn < 1
    assert shift < 0.04
    assert scale < 0.02
    assert proof.scores.likeness == 0.5
    assert proof.scores.matches > proof.scores.support >= LoopConfig().support
    assert proof.scores.error < 1.5


def test_a_large_image_gives_the_same_loop():
    """Twice as many pixels along each side; at most a second of features and matching for any size."""
    proof = prove(visit(0, height=2 * HEIGHT), visit(1, height=2 * HEIGHT), 0.5, FOCAL / WIDTH, LoopConfig())
    assert proof.verdict == "accepted"
    turn, shift, scale = errors(proof.a_from_b)
    assert (turn, shift, scale) < (0.5, 0.04, 0.02)


@pytest.mark.parametrize("wall", range(1, 7))
def test_two_places_that_do_not_show_the_same_are_no_loop(wall: int):
    proof = prove(visit(0), visit(1, wall), 0.9, FOCAL / WIDTH, LoopConfig())
    assert proof.verdict in ("matches", "support")


def test_what_shows_nothing_is_no_loop():
    """A blank wall, unknown depth, and depth that is none have no corners; the result is finite."""
    image, depth = look(VISITS[0][0], 0)
    for picture, known in (
        (np.full_like(image, 200), depth),
        (image, np.full_like(depth, np.nan)),
        (image, np.zeros_like(depth)),
        (image, -depth),
        (image, np.full_like(depth, np.inf)),
    ):
        nothing = find_features(picture, known)
        assert not nothing.depth.any()
        blank = replace(
            visit(1),
            **{name: np.stack([getattr(nothing, name)] * 3) for name in ("pixels", "depth", "patches")},
        )
        assert register(visit(0), blank, FOCAL / WIDTH) is None
        proof = prove(visit(0), blank, 0.9, FOCAL / WIDTH, LoopConfig())
        assert proof.verdict == "matches"
        assert np.isfinite([*proof.scores, proof.a_from_b.scale, *proof.a_from_b.translation]).all()


def test_what_covers_the_same_part_of_every_image_is_no_place():
    """Unrelated pictures in one white frame, as a wide field of view leaves it: no corner near its edge counts."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    seen = np.abs(row - 41.5) < 34 + 0.0025 * (column - 55.5) ** 2
    seen &= np.abs(column - 55.5) < 46 + 0.006 * (row - 41.5) ** 2

    def framed(number: int, mask: np.ndarray | None) -> Place:
        rng = np.random.default_rng(number)
        depth = (2 + 2 * gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 10)).astype(np.float32)
        found = []
        for _ in range(3):
            noise = rng.normal(size=(HEIGHT, WIDTH, 3))
            scene = sum(blur * gaussian_filter(noise, (blur, blur, 0)) for blur in (1, 2, 4, 8))
            shown = np.where(seen[..., None], 60 + 180 * (scene - scene.min()) / np.ptp(scene), 255)
            found.append(find_features(shown.astype(np.uint8), depth, mask))
        columns = {name: np.stack([getattr(x, name) for x in found]) for name in ("pixels", "depth", "patches")}
        poses = np.tile(np.eye(3, 4), (3, 1, 1))
        return Place(number, 0, np.zeros(4, np.float16), poses, np.array(FOCAL / WIDTH), **columns)

    for number in range(4):
        proofs = [
            prove(framed(number, mask), framed(number + 10, mask), 0.9, FOCAL / WIDTH, LoopConfig())
            for mask in (None, seen)
        ]
        assert proofs[0].verdict == "accepted", "this is what the mask is for"
        assert proofs[1].verdict in ("matches", "support")
        assert proofs[1].scores.support < LoopConfig().support / 2


def test_the_same_two_places_always_give_the_same_loop():
    one, other = (prove(visit(0), visit(1), 0.5, FOCAL / WIDTH, LoopConfig()) for _ in range(2))
    assert one.scores == other.scores
    np.testing.assert_array_equal(one.a_from_b.translation, other.a_from_b.translation)


def remembered(descriptors: np.ndarray, most: int = 100) -> Places:
    """Places of submaps 0, 1, … with these descriptors [N,C]."""
    places = Places(None, place_type(descriptors.shape[1]), most=most)
    for submap, descriptor in enumerate(descriptors):
        places.add(bare_place(submap, descriptor))
    return places


def bare_place(submap: int, descriptor: np.ndarray, part: int = 0) -> Place:
    return Place(
        submap=submap,
        part=part,
        descriptor=descriptor.astype(np.float16),
        submap_from_cam=np.zeros((3, 3, 4)),
        focal=np.array(1.0),
        pixels=np.zeros((3, MOST, 2), np.float32),
        depth=np.zeros((3, MOST), np.float32),
        patches=np.zeros((3, MOST, SIDE**2), np.int8),
    )


def test_places_that_look_alike_are_proposed_the_best_first():
    """Sixteen directions of default_rng(0) about a common mean that says nothing; 3 and 8 are near the new place's."""
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(16, 32))
    new = rng.normal(size=32)
    descriptors[3], descriptors[8] = new + 0.1 * rng.normal(size=32), new + 0.5 * rng.normal(size=32)
    descriptors[14] = new  # too near in time
    common = 20 * rng.normal(size=32)
    places = remembered(descriptors + common)
    found = propose(bare_place(16, new + common), places, LoopConfig(candidates=2, apart=3))
    assert [submap for submap, _ in found] == [3, 8]
    assert 1 > found[0][1] > found[1][1] > 0.8
    assert propose(bare_place(16, new + common), places, LoopConfig(candidates=5))[:2] == found
    assert len(propose(bare_place(16, new + common), places, LoopConfig(candidates=5))) == 5
    places.close()


def test_nothing_is_proposed_where_nothing_can_be():
    same = np.ones((6, 4))
    for places, submap in ((remembered(same[:0]), 0), (remembered(same[:2]), 2), (remembered(same), 6)):
        assert propose(bare_place(submap, same[0]), places, LoopConfig()) == []
        places.close()


def test_after_a_break_the_places_just_before_it_are_proposed():
    """Nothing but a loop tells how the new part lies to the old one."""
    descriptors = np.random.default_rng(0).normal(size=(5, 8))
    places = remembered(descriptors)
    places.add(bare_place(5, descriptors[0], part=1))
    found = propose(bare_place(6, descriptors[4], part=1), places, LoopConfig(candidates=6))
    assert found[0][0] == 4 and {submap for submap, _ in found} == {0, 1, 2, 3, 4}
    places.close()


def test_a_visit_compares_with_a_fixed_number_of_places_and_remembers(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def stand_in(a: Place, b: Place, likeness: float, focal: float, config: LoopConfig) -> Proof:
        asked.append((a.submap, b.submap))
        return Proof(a.submap, b.submap, Similarity(), Scores(likeness), "support")

    monkeypatch.setattr(loops, "prove", stand_in)
    places = remembered(np.zeros((0, 8)), most=16)
    config = LoopConfig(candidates=2, apart=3)
    descriptors = np.random.default_rng(0).normal(size=(40, 8))
    proofs = []
    for submap, descriptor in enumerate(descriptors):
        before = len(asked)
        proofs += loops.visit(bare_place(submap, descriptor), places, config)
        assert len(asked) - before == min(2, max(0, submap - 2))
    assert [(proof.a, proof.b) for proof in proofs] == asked
    assert all(b - a >= 3 for a, b in asked)
    assert places.report() == {"seen": 40, "kept": 10, "every": 4}
    places.close()
