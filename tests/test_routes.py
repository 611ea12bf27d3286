"""The routes that return in other ways, and that look alike without returning.

Images are 28 × 42 unless said otherwise; seeds stand in each test.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax import geometry, synthetic
from ivggt_jax.evaluate.walks import CHUNK, FIELD_OF_VIEW, Walk
from ivggt_jax.synthetic.furniture import RING

HEIGHT, WIDTH = 28, 42
FRAMES = 1000


@jax.jit
def returning(seed, start=0):
    """Room and FRAMES cameras of a seed, as the route takes them."""
    scene_key, path_key = jax.random.split(jax.random.key(seed))
    scene = synthetic.make_scene(scene_key)
    return scene, synthetic.returning_path(path_key, scene, FRAMES, start=start, speed=2.0)


@partial(jax.jit, static_argnames="frames")
def lights(seed, frames, start=0):
    key = jax.random.key(seed)
    return synthetic.changing_light(key, synthetic.make_scene(key), frames, start=start)


@partial(jax.jit, static_argnames=("kind", "frames"))
def along(seed, kind, frames):
    """Scene and cameras of a seed, as the routes that do not return take them."""
    scene_key, path_key = jax.random.split(jax.random.key(seed))
    scene = synthetic.make_scene(scene_key, kind)
    return scene, synthetic.camera_path(path_key, scene, frames, speed=2.0)


@jax.jit
def shoot(scene, camera):
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(FIELD_OF_VIEW), HEIGHT, WIDTH)
    return synthetic.render(scene, camera, intrinsics, HEIGHT, WIDTH)


def positions(cameras):
    return np.asarray(geometry.invert(cameras)[..., 3], np.float64)


def degrees_between(one, other):
    """Angles [T, S] between rotations [T, 3, 3] and [S, 3, 3]."""
    cosine = (np.einsum("tij,sij->ts", one, other) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def revisits(cameras, gap=100):
    """For each frame [T] the closest of those `gap` frames before it or earlier: its number, and whether it is near."""
    place, rotation = positions(cameras), np.asarray(cameras[:, :, :3], np.float64)
    distance = np.linalg.norm(place[:, None] - place, axis=-1)
    angle = degrees_between(rotation, rotation)
    before = np.arange(len(place))[:, None] - np.arange(len(place)) >= gap
    closest = np.argmin(np.where(before, distance / 0.5 + angle / 30, np.inf), axis=1)
    rows = np.arange(len(place))
    return closest, before[rows, closest] & (distance[rows, closest] < 0.5) & (angle[rows, closest] < 30)


def test_a_returning_walk_comes_back_with_other_images():
    """6 seeds: most of frames 500 to 999 are within 0.5 m and 30° of an earlier place; 6 pairs are rendered of two."""
    for seed in range(6):
        _, cameras = returning(seed)
        closest, near = revisits(cameras)
        assert near[500:].mean() > 0.5
        if seed < 2:
            walk = Walk("return", seed, HEIGHT, WIDTH)
            for frame in np.flatnonzero(near)[:: near.sum() // 6][:6]:
                now, then = (walk.part(int(n), CHUNK).images[0].astype(int) for n in (frame, closest[frame]))
                assert np.abs(now - then).mean() > 8


def test_a_returning_walk_varies_and_touches_nothing():
    """12 seeds, 1,000 frames: on the free ring, below what hangs from ceilings, no jumps; heights vary by 0.3 m, the pace by 2."""
    for seed in range(12):
        scene, cameras = returning(seed)
        place = positions(cameras)
        ring = np.linalg.norm(place[:, ::2] / np.asarray(scene.size)[::2], axis=1)
        assert ring.min() > RING[0] - 0.01 and ring.max() < RING[1] + 0.01
        height = -place[:, 1]
        assert height.min() > 0.85 and height.max() < 1.85 and np.ptp(height) > 0.3
        step = np.linalg.norm(np.diff(place, axis=0), axis=1)
        assert step.max() < 0.25 and step.max() > 2 * step.min()
        rotation = np.asarray(cameras[:, :, :3], np.float64)
        assert np.diagonal(degrees_between(rotation[1:], rotation[:-1])).max() < 12


def test_a_returning_walk_has_no_period():
    """Powers of two, among them the period of open paths, bring back neither the camera nor the light; seed 2."""
    _, first = returning(2)
    light = lights(2, 10)
    for power in (15, 20, 30):
        _, later = returning(2, start=1 << power)
        assert np.abs(later[:10] - first[:10]).max() > 0.05
        assert np.linalg.norm(np.diff(positions(later), axis=0), axis=1).max() < 0.25
        assert np.abs(lights(2, 10, start=1 << power).exposure - light.exposure).max() > 0.01


def test_light_changes_slowly_and_never_the_depth():
    """Factors within their bounds over 2,000 frames, by less than 3 % a frame; frames 40 to 49 of a walk; seed 7."""
    light = lights(7, 2000)
    lit = np.asarray(light.lighting)
    assert (lit[:, 2] == lit[0, 2]).all()
    for values, low, high in (
        (lit[:, 0], 1.2, 1.3**2), (lit[:, 1], 1.4, 1.6**2), (np.asarray(light.exposure[:, 1]), 1.2, 1.25**2)
    ):  # fmt: skip
        assert low < values.max() / values.min() < high + 1e-5
        assert np.abs(np.diff(np.log(values))).max() < 0.03
    balance = np.asarray(light.exposure[:, 0] / light.exposure[:, 2])
    assert balance.min() < 0.95 and balance.max() > 1.05

    scene, cameras = returning(7)
    part = Walk("return", 7, HEIGHT, WIDTH).part(40, CHUNK)
    for number in (0, 9):
        plain = shoot(scene, cameras[40 + number])
        assert np.mean(np.abs(part.depth[number] - plain.depth) > 1e-3) < 0.003
        assert np.abs(part.images[number] / 255 - np.asarray(plain.image)).mean() > 0.01


def test_doors_look_alike_from_cell_to_cell():
    """A camera one cell further, and 100: the same depth and colours, floor and ceiling too; 3 seeds. Not so in a corridor."""

    def difference(kind, seed, cells):
        """Shares of pixels with another depth and another colour, beside the camera of frame 0."""
        scene, cameras = along(seed, kind, 1)
        pose = geometry.invert(cameras[0])
        one, other = (shoot(scene, geometry.invert(pose.at[2, 3].add(n * scene.size[2]))) for n in (0, cells))
        colours = np.abs(one.image - other.image).max(axis=-1)
        return np.mean(np.abs(one.depth - other.depth) > 5e-3), np.mean(colours > 0.05)

    for seed in range(3):
        for cells in (1, 100):
            assert max(difference("doors", seed, cells)) < 0.02
        assert min(difference("corridor", seed, 2)) > 0.3


def test_doors_never_come_back():
    """Seeds 0 and 1: over 10,000 frames each hundred ends farther down the corridor than the last."""
    for seed in range(2):
        _, cameras = along(seed, "doors", 10_000)
        z = positions(cameras)[:, 2]
        assert np.diff(z[::100]).min() > 0.5


def test_only_in_a_room_does_a_path_return():
    scene, _ = along(0, "doors", 1)
    with pytest.raises(ValueError, match="not in a doors"):
        synthetic.returning_path(jax.random.key(0), scene, 4)
