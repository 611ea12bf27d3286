"""Loss of what is seen to move."""

import jax
import jax.numpy as jnp

from ivggt_jax.train.losses.reduce import binary_cross_entropy, masked_mean

FOCUS = 2.0
"""γ: the larger, the less a pixel counts that is told right already."""


def motion_loss(motion: jax.Array, moving: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    """Focal cross-entropy (arXiv 1708.02002) of motion [B,S,H,W] in [0,1], against `moving` bool, where `valid` bool.

    Moving pixels are few. Without the paper's α a pixel is as likely to move as `motion` says, about one half at least.
    """
    missed = jnp.where(moving, 1 - motion, motion)
    focal = missed**FOCUS * binary_cross_entropy(motion, moving.astype(motion.dtype))
    return {"error": jnp.mean(masked_mean(focal, valid, (2, 3)))}
