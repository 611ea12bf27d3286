"""Removes the step in depth where two submaps meet: the new one starts with the old one's depths and gradually leaves them.

The link makes the two depths of an anchor agree in their median, not at every pixel. The remaining log difference is carried
along by the cameras, added to the following depths and faded out over some frames. Otherwise a fused cloud would show a step.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from ivggt_jax import geometry
from ivggt_jax.mapping.pyramid import sample

FADE = 8
"""Frames after an anchor until its seam is gone."""
MOST = 0.3
"""Log difference from which nothing is carried on, because the two submaps see different things there, as at an edge. Up to half
of it is carried on in full."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Seam:
    """The difference between the two depths of the newest anchor."""

    step: jax.Array
    """[H,W] logarithm of the old submap's depth over the new one's; 0 where nothing is known."""
    world_from_anchor: jax.Array
    """[3,4]"""
    age: jax.Array
    """[] float32: frames since the anchor."""

    @classmethod
    def none(cls, batch: int, height: int, width: int) -> "Seam":
        """Seams [B] that change nothing."""
        step, pose = jnp.zeros((batch, height, width)), jnp.tile(jnp.eye(3, 4), (batch, 1, 1))
        return cls(step, pose, jnp.full(batch, FADE, jnp.float32))

    @classmethod
    def between(cls, old: jax.Array, new: jax.Array, world_from_anchor: jax.Array) -> "Seam":
        """The seam of an anchor with the two depths `old` and `new` [H,W], in the world's unit."""
        usable = jnp.isfinite(old) & jnp.isfinite(new) & (old > 0) & (new > 0)
        step = jnp.log(jnp.where(usable, old, 1)) - jnp.log(jnp.where(usable, new, 1))
        step = step * jnp.clip(2 - 2 * jnp.abs(step) / MOST, 0, 1)
        return cls(step, world_from_anchor, jnp.zeros((), jnp.float32))

    def close(self, depth: jax.Array, world_from_cam: jax.Array, intrinsics: jax.Array) -> tuple[jax.Array, "Seam"]:
        """The next frame's depth [H,W] without the step, and the seam after it."""
        later = replace(self, age=self.age + 1)
        points = geometry.unproject(depth, geometry.invert(world_from_cam), intrinsics)
        pixels, distance = geometry.project(points, geometry.invert(self.world_from_anchor), intrinsics)
        corner = jnp.asarray(self.step.shape[::-1], jnp.float32) - 1
        step = sample(self.step, jnp.clip(pixels, 0, corner))  # the edge's value, where the anchor saw nothing
        share = jnp.maximum(1 - later.age / FADE, 0)
        return depth * jnp.exp(share * jnp.where(jnp.isfinite(step) & (distance > 0), step, 0)), later
