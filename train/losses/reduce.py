"""Means over masked pixels and differentiable norms that never return NaN, shared by the losses."""

import jax
import jax.numpy as jnp

EPSILON = 1e-6


def masked_mean(values: jax.Array, mask: jax.Array, axes: tuple[int, ...], over: jax.Array | None = None) -> jax.Array:
    """Mean of `values` where `mask` is True, over `axes` (kept with size 1); 0 if nothing is counted.

    values and mask broadcast against each other. `over` is the mask for the count, if it differs.
    """
    mask = jnp.broadcast_to(mask, values.shape)
    over = mask if over is None else jnp.broadcast_to(over, values.shape)
    total = jnp.sum(jnp.where(mask, values, 0.0), axes, keepdims=True)
    return total / jnp.maximum(jnp.sum(over, axes, keepdims=True), 1)


def norm(vectors: jax.Array) -> jax.Array:
    """Euclidean length [...] of vectors [..., C], with gradient zero at the zero vector."""
    squares = jnp.sum(jnp.square(vectors), -1)
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def unit(vectors: jax.Array) -> jax.Array:
    """Vectors [..., C] divided by their length, or by 1e-6 if that is larger."""
    return vectors / jnp.maximum(norm(vectors), EPSILON)[..., None]


def huber(error: jax.Array, delta: float = 0.1) -> jax.Array:
    """Mean of e²/2δ where |e| ≤ δ and |e| − δ/2 beyond, over all elements."""
    size = jnp.abs(error)
    return jnp.mean(jnp.where(size <= delta, jnp.square(error) / (2 * delta), size - delta / 2))


def valid_or_all(valid: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The mask [B,S,H,W], or all True if it is empty over `axes`: an image without labels still has a teacher."""
    return valid | ~jnp.any(valid, axes, keepdims=True)


def binary_cross_entropy(probability: jax.Array, target: jax.Array) -> jax.Array:
    """−t·log p − (1−t)·log(1−p) per element, in nats, with p clipped to [1e-6, 1 − 1e-6]."""
    probability = jnp.clip(probability, EPSILON, 1 - EPSILON)
    return -target * jnp.log(probability) - (1 - target) * jnp.log1p(-probability)
