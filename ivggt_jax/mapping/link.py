"""Links two submaps by the depths that both predict for the frame that both have seen."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

SPREAD, SHARE = 0.3, 0.25
"""A link is sound up to this spread, and from this share of usable pixels."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Link:
    """The ratio of two submaps' units, and how certain it is."""

    scale: jax.Array
    """[] old depth over new depth: lengths in the new unit are multiplied by it."""
    spread: jax.Array
    """[] robust standard deviation of the log ratio over the pixels: 1.4826 times the median absolute deviation."""
    share: jax.Array
    """[] share of the allowed pixels that have a positive depth in both."""

    @property
    def enough(self) -> jax.Array:
        """Bool []: enough pixels are usable for the scale to mean something."""
        return self.share >= SHARE

    @property
    def sound(self) -> jax.Array:
        """Bool []: the two depths show one scene."""
        return self.enough & (self.spread <= SPREAD)


def link(old: jax.Array, new: jax.Array, mask: jax.Array | None = None) -> Link:
    """Link the submaps that predicted the depths `old` and `new` [H,W] for one frame; mask [H,W] bool: pixels to use.

    Uses the median, which is robust where the depths disagree at edges. Without a usable pixel the scale is 1 and the spread
    infinite.
    """
    mask = jnp.ones(old.shape, bool) if mask is None else mask
    usable = jnp.isfinite(old) & jnp.isfinite(new) & (old > 0) & (new > 0) & mask
    ratio = jnp.where(usable, jnp.log(jnp.where(usable, old, 1)) - jnp.log(jnp.where(usable, new, 1)), jnp.nan)
    middle = jnp.nanmedian(ratio)
    spread = 1.4826 * jnp.nanmedian(jnp.abs(ratio - middle))
    share = jnp.sum(usable) / jnp.maximum(jnp.sum(mask), 1)
    found = share > 0
    return Link(jnp.where(found, jnp.exp(middle), 1), jnp.where(found, spread, jnp.inf), share)
