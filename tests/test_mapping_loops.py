"""Loops on a textured wall whose answer is known: the network is replaced by one that tells the truth, or lies.

Walls are sums of random sines (default_rng of the wall's number), seen at 56×84.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax import geometry
from ivggt_jax.evaluate.trajectory import inverse
from ivggt_jax.mapping import loops
from ivggt_jax.mapping.loops import LoopConfig, LoopFinder, Proof, Scores, count_verdicts, judge, propose, prove
from ivggt_jax.mapping.places import Place, Places, coarse, place_type
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.transforms import Similarity, rotation_angle

HEIGHT, WIDTH, FOCAL = 56, 84, 70.0
INTRINSICS = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
NORMAL, DISTANCE = np.array([0.15, -0.1, 1.0]), 4.0
"""The wall: points x with NORMAL · x = DISTANCE."""


def look(world_from_cam: np.ndarray, wall: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H,W,3] and depth [H,W] of a wall."""
    rays = np.asarray(geometry.pixel_rays(jnp.asarray(INTRINSICS, jnp.float32), HEIGHT, WIDTH), np.float64)
    rays = rays @ world_from_cam[:, :3].T
    depth = (DISTANCE - NORMAL @ world_from_cam[:, 3]) / (rays @ NORMAL)
    points = world_from_cam[:, 3] + depth[..., None] * rays
    rng = np.random.default_rng(wall)
    waves = rng.normal(0, 2.5, (24, 2))
    shade = np.cos(points[..., :2] @ waves.T + rng.uniform(0, 2 * np.pi, 24)) @ rng.normal(0, 1, 24)
    return np.clip(128 + 25 * shade[..., None] * np.array([1.0, 0.9, 0.8]), 0, 255).astype(np.uint8), depth


def camera(x: float, y: float, yaw: float) -> np.ndarray:
    """world_from_cam [3,4]; yaw in degrees."""
    turn = Rotation.from_euler("y", yaw, degrees=True).as_matrix()
    return np.concatenate((turn, np.array([[x], [y], [0.0]])), axis=1)


class World:
    """Two visits to a wall, each a submap with an origin and unit of its own, and a network that knows it all."""

    def __init__(self, walls: tuple[int, int] = (0, 0)):
        self.cameras = [
            [camera(0.05 * i, 0.02 * i, 1.0 * i) for i in range(3)],
            [camera(0.3 - 0.04 * i, 0.1, -4 + i) for i in range(3)],
        ]
        self.world_from_submap = [
            Similarity(2.0, Rotation.from_rotvec([0.3, 0.2, -0.1]).as_matrix(), np.array([1.0, 2, 3])),
            Similarity(0.8, Rotation.from_rotvec([-0.2, 0.5, 0.3]).as_matrix(), np.array([-2.0, 0, 1])),
        ]
        self.known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self.places = []
        for submap, (cameras, wall) in enumerate(zip(self.cameras, walls, strict=True)):
            images, depths = zip(*(look(pose, wall) for pose in cameras), strict=True)
            for image, pose, depth in zip(images, cameras, depths, strict=True):
                self.known[image.tobytes()] = pose, depth
            own = self.world_from_submap[submap].inverse()
            poses = own.poses(np.stack(cameras))
            token = np.random.default_rng(submap).normal(size=4).astype(np.float16)
            self.places.append(Place(7 * submap, token, np.stack(images), poses, coarse(own.scale * np.stack(depths))))

    @property
    def a_from_b(self) -> Similarity:
        a, b = self.world_from_submap
        return a.inverse().after(b)

    def clip(self, change: Callable[[np.ndarray, np.ndarray], Any] = lambda poses, depth: (poses, depth)) -> Any:
        """A stand-in for `infer_clip`, in a unit of its own, after `change` of world_from_cam [6,3,4] and depth [6,H,W]."""

        def infer_clip(model: Any, images: np.ndarray, mode: str, heads: tuple[str, ...]) -> Predictions:
            assert (mode, heads) == ("causal", ("camera", "depth"))
            found = [self.known[image.tobytes()] for image in images[0]]
            poses, depth = change(np.stack([pose for pose, _ in found]), np.stack([depth for _, depth in found]))
            clip_from_world = Similarity(scale=0.4).after(Similarity(1.0, poses[0, :, :3], poses[0, :, 3]).inverse())
            cam_from_clip = inverse(clip_from_world.poses(poses)).astype(np.float32)
            intrinsics = jnp.broadcast_to(jnp.asarray(INTRINSICS, jnp.float32), (len(found), 3, 3))
            encoded = geometry.pose_from_cameras(jnp.asarray(cam_from_clip), intrinsics, HEIGHT, WIDTH)
            return Predictions(pose_encoding=encoded[None], depth=jnp.asarray(0.4 * depth, jnp.float32)[None])

        return infer_clip


def errors(proof: Proof, wanted: Similarity) -> tuple[float, float, float]:
    """Degrees, length in a's unit, logarithm of the scale."""
    found = proof.a_from_b
    turn = np.degrees(rotation_angle(found.rotation.T @ wanted.rotation))
    return (
        float(turn),
        float(np.linalg.norm(found.translation - wanted.translation)),
        float(np.log(found.scale / wanted.scale)),
    )


def test_two_visits_of_one_place_are_a_loop(monkeypatch: pytest.MonkeyPatch):
    """Depth is kept in float16, hence the tolerance."""
    world = World()
    monkeypatch.setattr(loops, "infer_clip", world.clip())
    proof = prove(None, *world.places, likeness=0.5)
    assert (proof.a, proof.b, proof.verdict) == (0, 7, "accepted")
    turn, shift, scale = errors(proof, world.a_from_b)
    assert turn < 0.1
    assert shift < 0.01
    assert abs(scale) < 1e-3
    assert proof.scores.likeness == 0.5
    assert proof.scores.correlation > 0.95
    assert (proof.scores.turn, proof.scores.shift, proof.scores.stretch) < (0.2, 0.01, 0.002)


def disturb(poses: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The second half of the clip turned by 2° and moved by 4 % of the depth against the first."""
    wrong = Similarity(1.0, Rotation.from_rotvec([0.02, 0.025, 0.015]).as_matrix(), np.array([0.12, -0.1, 0.05]))
    return np.concatenate((poses[:3], wrong.poses(poses[3:]))), depth


def test_alignment_mends_what_the_network_has_a_little_wrong(monkeypatch: pytest.MonkeyPatch):
    world = World()
    monkeypatch.setattr(loops, "infer_clip", world.clip(disturb))
    proof = prove(None, *world.places, likeness=0.5)
    assert proof.verdict == "accepted"
    turn, shift, _ = errors(proof, world.a_from_b)
    assert turn < 0.5
    assert shift < 0.04


def test_two_places_that_only_the_network_takes_for_one_are_none(monkeypatch: pytest.MonkeyPatch):
    for walls in ((0, 1), (2, 3), (4, 5)):
        world = World(walls)
        monkeypatch.setattr(loops, "infer_clip", world.clip())
        assert prove(None, *world.places, likeness=0.9).verdict == "image"


def test_what_is_not_finite_is_refused_and_the_result_is_finite(monkeypatch: pytest.MonkeyPatch):
    world = World()
    changes: tuple[Callable[[np.ndarray, np.ndarray], Any], ...] = (
        lambda poses, depth: (np.full_like(poses, np.nan), depth),
        lambda poses, depth: (poses, np.full_like(depth, np.nan)),
        lambda poses, depth: (poses, -depth),
        lambda poses, depth: (poses, np.full_like(depth, np.inf)),
    )
    for change in changes:
        monkeypatch.setattr(loops, "infer_clip", world.clip(change))
        proof = prove(None, *world.places, likeness=0.5)
        assert proof.verdict == "unusable"
        assert np.isfinite([*proof.scores, proof.a_from_b.scale, *proof.a_from_b.translation]).all()


def test_a_blank_wall_is_no_place(monkeypatch: pytest.MonkeyPatch):
    world = World()
    for place in world.places:
        for image in place.images:
            world.known[np.full_like(image, 200).tobytes()] = world.known[image.tobytes()]
        place.images[:] = 200
    monkeypatch.setattr(loops, "infer_clip", world.clip())
    assert prove(None, *world.places, likeness=0.5).verdict != "accepted"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "accepted"),
        ({"overlap": 0.29}, "overlap"),
        ({"correlation": 0.59}, "image"),
        ({"detail": 0.34}, "image"),
        ({"turn": 5.1}, "agreement"),
        ({"shift": 0.13}, "agreement"),
        ({"stretch": 0.11}, "agreement"),
    ],
)
def test_each_score_alone_can_refuse(change: dict[str, float], verdict: str):
    assert judge(Scores(0.5, 0.8, 0.9, 0.8, 1, 0.05, 0.05)._replace(**change), LoopConfig()) == verdict


def remembered(descriptors: np.ndarray, most: int = 100) -> Places:
    """Places of submaps 0, 1, … with these descriptors [N,C]."""
    places = Places(None, place_type(descriptors.shape[1], 4, 4), most=most)
    for submap, descriptor in enumerate(descriptors):
        places.add(bare_place(submap, descriptor))
    return places


def bare_place(submap: int, descriptor: np.ndarray) -> Place:
    return Place(
        submap, descriptor.astype(np.float16), np.zeros((3, 4, 4, 3), np.uint8), np.zeros((3, 3, 4)), np.ones((3, 1, 1))
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
    assert propose(bare_place(16, new + common), places, LoopConfig(candidates=5, likeness=0.8)) == found
    assert len(propose(bare_place(16, new + common), places, LoopConfig(candidates=5, likeness=-1.0))) == 5
    places.close()


def test_nothing_is_proposed_where_nothing_can_be():
    same = np.ones((6, 4))
    for places, submap in ((remembered(same[:0]), 0), (remembered(same[:2]), 2), (remembered(same), 6)):
        assert propose(bare_place(submap, same[0]), places, LoopConfig()) == []
        places.close()


def test_a_visit_compares_with_a_fixed_number_of_places_and_remembers(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def stand_in(model: Any, a: Place, b: Place, likeness: float, config: LoopConfig) -> Proof:
        asked.append((a.submap, b.submap))
        return Proof(a.submap, b.submap, Similarity(), Scores(likeness), "image")

    monkeypatch.setattr(loops, "prove", stand_in)
    places = remembered(np.zeros((0, 8)), most=16)
    finder = LoopFinder(None, places, LoopConfig(candidates=2, apart=3, likeness=-1.0))
    descriptors = np.random.default_rng(0).normal(size=(40, 8))
    proofs = []
    for submap, descriptor in enumerate(descriptors):
        before = len(asked)
        proofs += finder.visit(bare_place(submap, descriptor))
        assert len(asked) - before == min(2, max(0, submap - 2))
    assert [(proof.a, proof.b) for proof in proofs] == asked
    assert all(b - a >= 3 for a, b in asked)
    assert count_verdicts(proofs) == {"image": len(asked)}
    assert places.report() == {"seen": 40, "kept": 10, "every": 4}
    places.close()
