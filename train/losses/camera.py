"""Losses of camera pose encodings: against the first camera, and of each camera against those shortly before it."""

import jax
import jax.numpy as jnp

from ivggt_jax.geometry import compose, invert, quaternion_from_rotation, rotation_from_quaternion
from ivggt_jax.train.losses.reduce import huber, norm

GAPS = (1, 4, 16)
"""Frames between the two of a pair."""
LEAST_MOTION = 0.01
"""Radians plus shares of the scene's size: what a clip that moves less counts as moving from one of a pair to the other."""


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


def relative_pose_loss(prediction: jax.Array, target: jax.Array, *, delta: float = 0.1) -> dict[str, jax.Array]:
    """Huber distances of the steps between frames `GAPS` apart, as shares of what the clip's camera does in such a step.

    prediction, target: pose encodings [B,S,9] whose translations have one unit for a whole clip, such as the size of its
    scene. A pair is compared in its own frame, later camera from earlier: the translation of the one less that of the
    other, and the vector along the axis of the rotation between them of twice the sine of half its angle. Both are
    divided by the mean over the clip's pairs, for each gap alone, of true angle (the same chord) plus true distance; so a
    camera that turns on the spot by 1.1 times the truth is off by 0.1, fast or slow. Gaps that no pair of a clip has are
    left out; of a single frame both losses are 0.
    """
    predicted, true = _cameras(prediction), _cameras(target)
    gaps = [gap for gap in GAPS if gap < target.shape[-2]]
    losses = {"translation": jnp.zeros(()), "rotation": jnp.zeros(())}
    for gap in gaps:
        found, wanted = (compose(cameras[:, gap:], invert(cameras[:, :-gap])) for cameras in (predicted, true))
        motion = jnp.mean(norm(_turn(wanted[..., :3])) + norm(wanted[..., 3]), axis=-1)
        motion = jnp.maximum(motion, LEAST_MOTION)[:, None, None]
        between = jnp.matmul(found[..., :3], jnp.swapaxes(wanted[..., :3], -1, -2), precision="highest")
        losses["translation"] += huber((found[..., 3] - wanted[..., 3]) / motion, delta) / len(gaps)
        losses["rotation"] += huber(_turn(between) / motion, delta) / len(gaps)
    return losses


def _cameras(pose_encoding: jax.Array) -> jax.Array:
    """cam_from_world [...,3,4]; a quaternion of length zero, which a network may predict, is no rotation."""
    quaternion = pose_encoding[..., 3:7]
    is_zero = jnp.sum(jnp.square(quaternion), -1, keepdims=True) == 0
    rotation = rotation_from_quaternion(jnp.where(is_zero, jnp.array([0.0, 0.0, 0.0, 1.0]), quaternion))
    return jnp.concatenate((rotation, pose_encoding[..., :3, None]), axis=-1)


def _turn(rotation: jax.Array) -> jax.Array:
    """Axes [...,3] times 2·sin(angle/2) of rotations [...,3,3]: nearly the angle, and differentiable where that is 0."""
    return 2 * quaternion_from_rotation(rotation)[..., :3]
