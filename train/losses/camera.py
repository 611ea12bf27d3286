"""Loss of camera pose encodings."""

import jax
import jax.numpy as jnp

from ivggt_jax.train.losses.reduce import huber


def camera_loss(
    prediction: jax.Array, target: jax.Array, *, delta: float = 0.1, reference: bool = False
) -> dict[str, jax.Array]:
    """Huber distances of translation, rotation and field of view, quadratic up to `delta`.

    prediction, target: pose encodings [..., 9] (translation, quaternion xyzw, fields of view in radians).
    A quaternion and its negative are the same rotation: the nearer of the two is the target, unless `reference`.
    """
    rotation = target[..., 3:7]
    if not reference:
        opposite = jnp.sum(prediction[..., 3:7] * rotation, -1, keepdims=True) < 0
        rotation = jnp.where(opposite, -rotation, rotation)
    return {
        "translation": huber(prediction[..., :3] - target[..., :3], delta),
        "rotation": huber(prediction[..., 3:7] - rotation, delta),
        "field_of_view": 0.5 * huber(prediction[..., 7:] - target[..., 7:], delta),
    }
