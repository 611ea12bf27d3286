"""Loss of the motion head."""

import jax
import jax.numpy as jnp

from ivggt_jax.train.losses.reduce import binary_cross_entropy, masked_mean

FOCUS = 2.0
"""γ: the larger it is, the less a correctly predicted pixel counts."""


def motion_loss(motion: jax.Array, moving: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    """Focal cross-entropy (arXiv 1708.02002) of motion [B,S,H,W] in [0,1] against `moving` bool, where `valid` bool.

    Moving pixels are few. The paper's weight α is left out, so that at least around one half the output is a probability.
    """
    missed = jnp.where(moving, 1 - motion, motion)
    focal = missed**FOCUS * binary_cross_entropy(motion, moving.astype(motion.dtype))
    return {"error": jnp.mean(masked_mean(focal, valid, (2, 3)))}
