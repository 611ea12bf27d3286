"""Direct image alignment on a textured, slanted wall, seen exactly: disturbed poses come back, also under disturbances."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax import geometry
from ivggt_jax.mapping.link import link
from ivggt_jax.mapping.pyramid import gradient, pyramid, sample
from ivggt_jax.mapping.refinement import FOCAL as FIRST_ERROR
from ivggt_jax.mapping.refinement import Focal, Keyframe, Refined, empty_keyframes, keyframe, refine
from ivggt_jax.transforms import rotation_angle, rotation_from_vector

HEIGHT, WIDTH = 84, 112
INTRINSICS = np.asarray(geometry.intrinsics_from_field_of_view(np.deg2rad(62.0), HEIGHT, WIDTH))
WAVES = np.random.default_rng(0).uniform(-9, 9, (12, 3)) * (1, 1, 0.35)
"""Of the wall's brightness: frequencies along x and y, in radians a metre, and phase."""


@dataclass(frozen=True)
class View:
    image: np.ndarray
    depth: np.ndarray
    world_from_cam: np.ndarray


def pose(turn: tuple[float, float, float], position: tuple[float, float, float]) -> np.ndarray:
    """world_from_cam [3,4], turned by so many degrees about x, y and z."""
    rotation = np.asarray(rotation_from_vector(jnp.deg2rad(jnp.asarray(turn))))
    return np.concatenate((rotation, np.reshape(position, (3, 1))), axis=1).astype(np.float32)


def view(world_from_cam: np.ndarray) -> View:
    """The wall z = 2 + 0.3·x from a camera."""
    rays = np.asarray(geometry.pixel_rays(jnp.asarray(INTRINSICS), HEIGHT, WIDTH)) @ world_from_cam[:, :3].T
    x, _, z = world_from_cam[:, 3]
    depth = (2 + 0.3 * x - z) / (rays[..., 2] - 0.3 * rays[..., 0])
    points = world_from_cam[:, 3] + depth[..., None] * rays
    waves = np.sin(points[..., :2] @ WAVES[:, :2].T + WAVES[:, 2]).sum(axis=-1)
    image = np.repeat((0.5 + 0.07 * waves)[..., None], 3, axis=-1)
    return View(image.astype(np.float32), depth.astype(np.float32), world_from_cam)


FIRST = view(pose((0, 0, 0), (0, 0, 0)))
SECOND = view(pose((1.5, -2.0, 1.0), (0.08, -0.04, 0.05)))
GUESS = pose((0.7, -3.2, 2.0), (0.14, -0.01, 0.0))
"""Of the second camera: 1.8 degrees and 8 cm off."""


FOCAL = Focal(jnp.asarray((INTRINSICS[0, 0], INTRINSICS[1, 1])), jnp.asarray(1e4))


@jax.jit
def aligned(image: jax.Array, depth: jax.Array, first: jax.Array, guess: jax.Array, focal: Focal = FOCAL) -> Refined:
    frame = keyframe(pyramid(first), depth, jnp.eye(3, 4))
    keyframes: Keyframe = jax.tree.map(lambda x, y: x.at[0].set(y), empty_keyframes((2,), HEIGHT, WIDTH), frame)
    return refine(keyframes, jnp.asarray((True, False)), pyramid(image), focal, guess)


def degrees(found: jax.Array, true: np.ndarray) -> float:
    return float(np.degrees(rotation_angle(np.asarray(found, np.float64)[:, :3].T @ true[:, :3])))


def moved_patch(image: np.ndarray) -> np.ndarray:
    """A fifth of the image shows something else."""
    changed = image.copy()
    changed[20:65, 30:72] = 1 - image[10:55, 60:102]
    return changed


@pytest.mark.parametrize(
    ("change", "most_degrees"),
    [
        (lambda x: x, 0.05),
        (lambda x: 0.7 * x + 0.1, 0.05),
        (moved_patch, 0.2),
        (lambda x: x + np.random.default_rng(1).normal(0, 0.03, x.shape).astype(np.float32), 0.2),
        (lambda x: (x + np.roll(x, 1, 1) + np.roll(x, -1, 1)) / 3, 0.1),
        (lambda x: np.where(np.arange(WIDTH)[:, None] < 30, np.nan, x), 0.1),
    ],
    ids=["exact", "darker", "a fifth moves", "noise", "blur", "partly unknown"],
)
def test_a_disturbed_pose_comes_back(change, most_degrees: float) -> None:
    found = aligned(change(SECOND.image), FIRST.depth, FIRST.image, GUESS)
    assert found.accepted
    assert degrees(found.world_from_cam, SECOND.world_from_cam) < most_degrees
    shift = np.linalg.norm(found.world_from_cam[:, 3] - SECOND.world_from_cam[:, 3])
    assert shift < 2.5 * np.radians(most_degrees) * 2  # two metres away
    assert found.correlation > 0.6


@pytest.mark.parametrize("image", [np.full_like(FIRST.image, 0.5), np.zeros_like(FIRST.image)], ids=["grey", "black"])
def test_a_blank_wall_leaves_the_pose_as_it_was(image: np.ndarray) -> None:
    found = aligned(image, FIRST.depth, image, GUESS)
    np.testing.assert_allclose(found.world_from_cam, GUESS, atol=1e-6)
    assert np.isfinite(found.correlation)


@pytest.mark.parametrize("depth", [np.nan, 0.0, -1.0, np.inf])
def test_without_depth_the_pose_is_refused(depth: float) -> None:
    found = aligned(SECOND.image, np.full_like(FIRST.depth, depth), FIRST.image, GUESS)
    assert not found.accepted
    np.testing.assert_array_equal(found.world_from_cam, GUESS)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_an_unrelated_image_does_not_correlate() -> None:
    other = np.random.default_rng(2).uniform(0, 1, FIRST.image.shape).astype(np.float32)
    assert abs(aligned(other, FIRST.depth, FIRST.image, GUESS).correlation) < 0.3


def test_sampling_is_bilinear_and_knows_its_edges() -> None:
    image = jnp.arange(12.0).reshape(3, 4)
    pixels = jnp.asarray(((0, 0), (3, 2), (1.5, 0.5), (3.01, 1), (0, -0.01)))
    np.testing.assert_allclose(sample(image, pixels), (0, 11, 3.5, np.nan, np.nan), atol=1e-6)
    np.testing.assert_allclose(gradient(image, jnp.asarray((1.5, 1.0))), (1, 4), atol=1e-6)


def test_a_link_is_the_median_ratio_of_depths() -> None:
    old = 2.5 * FIRST.depth
    old[:20] = np.nan  # 24 % unknown
    old[20:30] *= 7  # 12 % wrong
    found = link(jnp.asarray(old), jnp.asarray(FIRST.depth))
    np.testing.assert_allclose(found.scale, 2.5, rtol=1e-5)
    np.testing.assert_allclose(found.share, 64 / 84, rtol=1e-6)
    assert found.sound
    assert not link(jnp.full((4, 4), jnp.nan), jnp.ones((4, 4))).sound
    noise = np.exp(np.random.default_rng(3).normal(0, 0.8, FIRST.depth.shape)).astype(np.float32)
    assert not link(jnp.asarray(noise * FIRST.depth), jnp.asarray(FIRST.depth)).sound


def test_the_focal_length_is_found() -> None:
    """A turn shows it: 8 % wrong at first, with the belief that the network's first word gets."""
    turned = view(pose((0.5, 8.0, 1.0), (0.08, -0.04, 0.05)))
    wrong = Focal(1.08 * FOCAL.length, jnp.asarray(FIRST_ERROR**-2))
    found = aligned(turned.image, FIRST.depth, FIRST.image, pose((0.7, 7.2, 2.0), (0.1, -0.02, 0.02)), wrong)
    assert found.accepted
    np.testing.assert_allclose(found.focal.length / FOCAL.length, 1, atol=0.02)
    assert found.focal.information > wrong.information
    nothing, intrinsics = jnp.asarray(True), jnp.asarray(INTRINSICS)
    first = Focal(jnp.ones(2), jnp.zeros(())).after(2 * intrinsics, nothing).after(intrinsics, nothing)
    np.testing.assert_allclose(first.length, FOCAL.length)  # the first images may show nothing, and say anything
    np.testing.assert_allclose(first.after(2 * intrinsics, ~nothing).length, FOCAL.length)
