"""Where two submaps meet, no step in depth: the new one begins with the old one's depths and lets go of them.

The link makes the two depths of an anchor agree in their median, not pixel by pixel. What is left there, carried along by
the cameras, is added to the logarithm of the depths that follow, and fades within some frames. Otherwise a step would show
in a fused cloud.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from ivggt_jax import geometry
from ivggt_jax.mapping.pyramid import sample

FADE = 8
"""Frames after an anchor within which its seam is gone."""
MOST = 0.3
"""Difference of logarithms of which nothing is carried on: there the two submaps see different things, as at an edge. Up to
half of it all is."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Seam:
    """What the depths of the newest anchor differ by."""

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
        """The seam of an anchor, whose depths [H,W] are these in the world's unit."""
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
        step = sample(self.step, jnp.clip(pixels, 0, corner))  # what the anchor did not see goes on from its edge
        share = jnp.maximum(1 - later.age / FADE, 0)
        return depth * jnp.exp(share * jnp.where(jnp.isfinite(step) & (distance > 0), step, 0)), later
