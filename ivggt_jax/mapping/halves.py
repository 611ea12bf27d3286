"""The two halves of a clip, each the frames of one place, aligned directly with the images of the other half."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ivggt_jax import geometry
from ivggt_jax.mapping.places import FRAMES, coarse
from ivggt_jax.mapping.pyramid import pyramid, sample
from ivggt_jax.mapping.refinement import Keyframe, keyframe, refine

NOISE = 1 / 255
"""Standard deviation of brightness."""


class AlignedHalves(NamedTuple):
    """What is found of a clip of 2 · FRAMES frames."""

    world_from_cam: jax.Array
    """[2·FRAMES,3,4]: as the network has them."""
    aligned: jax.Array
    """[2·FRAMES,3,4]: each aligned with the frames of the other half, where the network has them."""
    correlation: jax.Array
    """[2·FRAMES]: of each image with those of the other half, where depth and the aligned pose put them."""
    detail: jax.Array
    """[2·FRAMES]: the same of what is left of the images without their broad shades."""
    overlap: jax.Array
    """[2·FRAMES]: share of the other half's pixels that the image shows."""
    depth: jax.Array
    """[2·FRAMES,h,w], see `places.coarse`."""


@jax.jit
def align_halves(images: jax.Array, pose_encoding: jax.Array, depth: jax.Array) -> AlignedHalves:
    """Aligns a clip's frames: images uint8 [2·FRAMES,H,W,3] and what the network says of them, [2·FRAMES,9] and [2·FRAMES,H,W]."""
    cam_from_world, intrinsics = geometry.cameras_from_pose(pose_encoding, *depth.shape[1:])
    world_from_cam = geometry.invert(cam_from_world)
    levels = jax.vmap(pyramid)(images.astype(jnp.float32) / 255)
    keyframes = jax.vmap(keyframe)(levels, depth, intrinsics, world_from_cam)

    def one(frame: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        others = jnp.arange(FRAMES) + jnp.where(frame < FRAMES, FRAMES, 0)
        keys, own = jax.tree.map(lambda x: x[others], keyframes), levels[frame]
        found = refine(keys, jnp.ones(FRAMES, bool), own, intrinsics[frame], world_from_cam[frame])
        return found.world_from_cam, *_likeness(keys, own, found.world_from_cam, intrinsics[frame])

    aligned, correlation, detail, overlap = jax.lax.map(one, jnp.arange(2 * FRAMES))
    return AlignedHalves(world_from_cam, aligned, correlation, detail, overlap, coarse(depth))


def _likeness(
    keys: Keyframe, levels: jax.Array, world_from_cam: jax.Array, intrinsics: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Correlation, detail and overlap of an image with keyframes."""
    points = geometry.transform_points(keys.world_from_cam, keys.points)
    pixels, depth = geometry.project(points, geometry.invert(world_from_cam), intrinsics)
    fine, broad = sample(levels[-1], pixels), sample(levels[0], pixels)
    seen = keys.known & (depth > 0) & jnp.isfinite(fine) & jnp.isfinite(broad)
    correlation = _correlation(fine, keys.brightness[:, -1], seen)
    detail = _correlation(fine - broad, keys.brightness[:, -1] - keys.brightness[:, 0], seen)
    return correlation, detail, jnp.sum(seen) / jnp.maximum(jnp.sum(keys.known), 1)


def _correlation(one: jax.Array, other: jax.Array, where: jax.Array) -> jax.Array:
    """Of values [K,N], each of the K about means of its own, under noise; 0 where there is nothing to compare."""
    count = jnp.maximum(jnp.sum(where, axis=1, keepdims=True), 1)

    def centred(values: jax.Array) -> jax.Array:
        values = jnp.where(where, values, 0)
        return jnp.where(where, values - jnp.sum(values, axis=1, keepdims=True) / count, 0)

    one, other = centred(one), centred(other)
    # Images are no more alike than their noise lets them be known to be: blank ones are not.
    noise = jnp.sum(where) * NOISE**2
    powers = (jnp.sum(one * one) + noise) * (jnp.sum(other * other) + noise)
    return jnp.sum(one * other) / jnp.sqrt(jnp.maximum(powers, NOISE**4))
