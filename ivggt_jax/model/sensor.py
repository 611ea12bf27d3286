"""Depth that a sensor measured, as the network is told it: added to patch tokens, in a unit of the stream's own.

A network knows lengths up to a scene's scale. So it is told depth in units of the first depth image's median, and answers
in a unit of its own. If a stream's first frame has depth, what was measured there over what was answered turns all answers into
the sensor's unit; else they stay as they are.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.layers import Mlp


class DepthPatches(nnx.Module):
    """Patch embedding of log depth and of where it is known, behind a projection that begins at zero.

    A patch without any measured pixel stays what it was, to the bit.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.patch_size = config.patch_size
        self.mlp = Mlp(2 * config.patch_size**2, config.mlp_ratio * config.width, config.width, rngs=rngs)
        self.mlp.fc2.kernel = nnx.Param(jnp.zeros_like(self.mlp.fc2.kernel[...]))

    def __call__(self, patches: Float[Array, "B N width"], depth: Float[Array, "B H W"]) -> Float[Array, "B N width"]:
        """Patch tokens [B,N,width] with what depth [B,H,W] in the stream's unit says of them, where it is `measured`."""
        batch, height, width = depth.shape
        size = self.patch_size
        known = measured(depth)
        pixels = jnp.stack([jnp.where(known, jnp.log(jnp.where(known, depth, 1)), 0), known], axis=-1)
        pixels = pixels.reshape(batch, height // size, size, width // size, size, 2).transpose(0, 1, 3, 2, 4, 5)
        pixels = pixels.reshape(*patches.shape[:2], -1)
        told = self.mlp(pixels.astype(self.mlp.fc1.kernel.dtype)).astype(patches.dtype)
        return jnp.where(jnp.any(pixels[..., 1::2] > 0, axis=-1, keepdims=True), patches + told, patches)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SensorUnit:
    """In what units streams are told depth, and give it."""

    told: jax.Array
    """[B] float32: median of the first depth image in the sensor's unit; 0 until there is one."""
    given: jax.Array
    """[B] float32: what the network's lengths are multiplied by; 1 where the first frame had no depth."""

    @classmethod
    def empty(cls, batch: int) -> "SensorUnit":
        """Of streams that have not begun."""
        return cls(jnp.zeros(batch, jnp.float32), jnp.ones(batch, jnp.float32))

    def after(self, depth: Float[Array, "B S H W"]) -> "SensorUnit":
        """Once depth [B,S,H,W] has come."""
        medians = _medians(depth)
        first = jnp.argmax(medians > 0, axis=1)
        told = jnp.where(self.told > 0, self.told, jnp.take_along_axis(medians, first[:, None], axis=1)[:, 0])
        return SensorUnit(told, self.given)

    def answered(
        self, depth: Float[Array, "B S H W"], found: Float[Array, "B S H W"], frame: Int[Array, " B"]
    ) -> "SensorUnit":
        """Once the network has found a depth [B,S,H,W] for what was measured, [B,S,H,W], from frame number `frame` [B] on.

        No gradient runs through it: a network is not to change its unit, but to keep it.
        """
        ratio = lax.stop_gradient(_medians(jnp.where(measured(depth), depth / found, 0)[:, :1])[:, 0])
        return SensorUnit(self.told, jnp.where((frame == 0) & (ratio > 0), ratio, self.given))

    def relative(self, depth: Float[Array, "B *axes"]) -> Float[Array, "B *axes"]:
        """Depth [B,…] in the unit that the network is told it in; 0 where nothing is measured."""
        unit = self.told.reshape(-1, *(1,) * (depth.ndim - 1))
        return jnp.where(measured(depth) & (unit > 0), depth / jnp.where(unit > 0, unit, 1), 0)


def measured(depth: Float[Array, "*axes"]) -> Bool[Array, "*axes"]:
    """Bool [...]: where a sensor's depth [...] is one; 0, negative numbers, infinity and NaN say nothing."""
    return jnp.isfinite(depth) & (depth > 0)


def _medians(depth: Float[Array, "B S H W"]) -> Float[Array, "B S"]:
    """Median [B,S] of what depth images [B,S,H,W] measured, 0 where that is nothing."""
    known = jnp.where(measured(depth), depth, jnp.nan)
    return jnp.nan_to_num(jnp.nanmedian(known.reshape(*depth.shape[:2], -1), axis=-1))
