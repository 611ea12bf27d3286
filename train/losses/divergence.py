"""Kullback–Leibler divergences KL(student ‖ teacher), with predictions read as distributions."""

import jax
import jax.numpy as jnp

from ivggt_jax.train.losses.reduce import EPSILON


def laplace_divergence(
    location: jax.Array, confidence: jax.Array, target_location: jax.Array, target_confidence: jax.Array
) -> jax.Array:
    """KL between Laplace distributions of scale 1/confidence, in nats per pixel, summed over channels.

    location, target_location: [...,C], independent channels; confidence, target_confidence: [...], positive. With confidences c
    and c', and d the distance between the locations, it is log(c/c') + c'·d + (c'/c)·exp(−c·d) − 1.
    """
    confidence = jnp.maximum(confidence, EPSILON)[..., None]
    target_confidence = jnp.maximum(target_confidence, EPSILON)[..., None]
    distance = jnp.abs(location - target_location)
    ratio = target_confidence / confidence
    divergence = target_confidence * distance + ratio * jnp.exp(-confidence * distance) - jnp.log(ratio) - 1.0
    return jnp.sum(divergence, -1)


def bernoulli_divergence(probability: jax.Array, target: jax.Array) -> jax.Array:
    """KL between Bernoulli distributions, in nats per element; both probabilities are clipped to [1e-6, 1 − 1e-6]."""
    probability, target = (jnp.clip(value, EPSILON, 1 - EPSILON) for value in (probability, target))
    present = probability * (jnp.log(probability) - jnp.log(target))
    absent = (1 - probability) * (jnp.log1p(-probability) - jnp.log1p(-target))
    return present + absent
