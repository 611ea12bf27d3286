"""Measured depth as an input of the network: added to patch tokens, in a unit of the stream's own.

The network knows lengths only up to the scene's scale. So depth goes in relative to the median of the first depth image, and
predictions come out in a unit of the network's own. If a stream's first frame has depth, the ratio of measured to predicted depth
there converts all predictions to the sensor's unit; otherwise they stay as they are.
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
    """Patch embedding of log depth and of the mask of known pixels, followed by a projection that is initialised to zero.

    A patch token without any measured pixel stays bit-identical.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.patch_size = config.patch_size
        self.mlp = Mlp(2 * config.patch_size**2, config.mlp_ratio * config.width, config.width, rngs=rngs)
        self.mlp.fc2.kernel = nnx.Param(jnp.zeros_like(self.mlp.fc2.kernel[...]))

    def __call__(self, patches: Float[Array, "B N width"], depth: Float[Array, "B H W"]) -> Float[Array, "B N width"]:
        """Patch tokens [B,N,width] with depth [B,H,W], in the stream's unit, added where it is `measured`."""
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
    """Units in which B streams take depth as input and return it."""

    told: jax.Array
    """[B] float32: median of the first depth image in the sensor's unit; 0 until there is one."""
    given: jax.Array
    """[B] float32: factor applied to all predicted lengths; 1 where the first frame had no depth."""

    @classmethod
    def empty(cls, batch: int) -> "SensorUnit":
        """For streams before their first frame."""
        return cls(jnp.zeros(batch, jnp.float32), jnp.ones(batch, jnp.float32))

    def after(self, depth: Float[Array, "B S H W"]) -> "SensorUnit":
        """The units after depth [B,S,H,W] came in: a stream's first depth image sets `told`."""
        medians = _medians(depth)
        first = jnp.argmax(medians > 0, axis=1)
        told = jnp.where(self.told > 0, self.told, jnp.take_along_axis(medians, first[:, None], axis=1)[:, 0])
        return SensorUnit(told, self.given)

    def answered(
        self, depth: Float[Array, "B S H W"], found: Float[Array, "B S H W"], frame: Int[Array, " B"]
    ) -> "SensorUnit":
        """The units after the network predicted depth `found` for measured `depth`, both [B,S,H,W], from frame `frame` [B] on.

        No gradient passes through the ratio: training should teach the network to keep its unit, not to change it.
        """
        ratio = lax.stop_gradient(_medians(jnp.where(measured(depth), depth / found, 0)[:, :1])[:, 0])
        return SensorUnit(self.told, jnp.where((frame == 0) & (ratio > 0), ratio, self.given))

    def relative(self, depth: Float[Array, "B *axes"]) -> Float[Array, "B *axes"]:
        """Depth [B,…] in the unit in which the network takes it; 0 where nothing is measured."""
        unit = self.told.reshape(-1, *(1,) * (depth.ndim - 1))
        return jnp.where(measured(depth) & (unit > 0), depth / jnp.where(unit > 0, unit, 1), 0)


def measured(depth: Float[Array, "*axes"]) -> Bool[Array, "*axes"]:
    """Bool [...]: where depth [...] was measured; 0, negative numbers, infinity and NaN mean it was not."""
    return jnp.isfinite(depth) & (depth > 0)


def _medians(depth: Float[Array, "B S H W"]) -> Float[Array, "B S"]:
    """Median [B,S] of the measured pixels of depth images [B,S,H,W]; 0 where there are none."""
    known = jnp.where(measured(depth), depth, jnp.nan)
    return jnp.nan_to_num(jnp.nanmedian(known.reshape(*depth.shape[:2], -1), axis=-1))
