"""Loss of point tracks and their visibility."""

import jax
import jax.numpy as jnp

from ivggt_jax.train.losses.reduce import EPSILON, binary_cross_entropy, masked_mean, norm


def track_loss(
    tracks: jax.Array,
    visibility: jax.Array,
    confidence: jax.Array,
    target_tracks: jax.Array,
    target_visibility: jax.Array,
    counted: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Confidence-weighted pixel distance with −log confidence, and cross-entropy of the visibility.

    tracks [B,S,N,2] in pixels; visibility, confidence and target_visibility [B,S,N] in [0,1]; counted: bool [B,S,N], the track
    points with known position (default: all). Without −log confidence, zero confidence would be optimal.
    """
    counted = jnp.ones(tracks.shape[:-1], bool) if counted is None else counted
    confidence = jnp.clip(confidence, EPSILON, 1.0)
    distance = norm(jnp.where(counted[..., None], tracks - target_tracks, 0.0))
    return {
        "error": jnp.mean(masked_mean(confidence * distance, counted, (1, 2))),
        "confidence": -jnp.mean(masked_mean(jnp.log(confidence), counted, (1, 2))),
        "visibility": jnp.mean(binary_cross_entropy(visibility, target_visibility)),
    }


def reference_track_loss(
    tracks: jax.Array,
    visibility: jax.Array,
    confidence: jax.Array,
    target_tracks: jax.Array,
    target_visibility: jax.Array,
) -> dict[str, jax.Array]:
    """The published formula: low confidence costs nothing, and probabilities pass a second sigmoid. Shapes as in `track_loss`."""
    cross_entropy = binary_cross_entropy(jax.nn.sigmoid(visibility), target_visibility)
    return {
        "error": jnp.mean(confidence * norm(tracks - target_tracks)),
        "visibility": jnp.mean(confidence * cross_entropy),
    }
