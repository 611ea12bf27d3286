"""Losses of camera poses: relative to the first camera, and relative to those shortly before."""

import jax
import jax.numpy as jnp

from ivggt_jax.geometry import compose, invert, quaternion_from_rotation, rotation_from_quaternion
from ivggt_jax.train.losses.reduce import huber, norm

GAPS = (1, 4, 16)
"""Frames between the two cameras of a pair."""
LEAST_MOTION = 0.01
"""Least mean motion by which errors are divided, in radians plus scene sizes."""


def camera_loss(
    prediction: jax.Array,
    target: jax.Array,
    *,
    delta: float = 0.1,
    view_delta: float | None = None,
    reference: bool = False,
) -> dict[str, jax.Array]:
    """Huber distances of translation and rotation, quadratic up to `delta`, and field of view, up to `view_delta` or else `delta`.

    prediction, target: pose encodings [..., 9] (translation, quaternion xyzw, fields of view in radians). A quaternion and its
    negative are the same rotation, so the closer of the two is the target; not with `reference`.
    """
    view_delta = delta if view_delta is None else view_delta
    rotation = target[..., 3:7]
    if not reference:
        opposite = jnp.sum(prediction[..., 3:7] * rotation, -1, keepdims=True) < 0
        rotation = jnp.where(opposite, -rotation, rotation)
    return {
        "translation": huber(prediction[..., :3] - target[..., :3], delta),
        "rotation": huber(prediction[..., 3:7] - rotation, delta),
        "field_of_view": 0.5 * huber(prediction[..., 7:] - target[..., 7:], view_delta),
    }


def relative_pose_loss(prediction: jax.Array, target: jax.Array, *, delta: float = 0.1) -> dict[str, jax.Array]:
    """Huber distances of relative poses between frames `GAPS` apart, divided by the clip's mean motion over such a gap.

    prediction, target: pose encodings [B,S,9] with translations in one unit for the whole clip, such as the scene's size. A
    relative pose is the later camera from the earlier. Its errors are the difference of the translations and, for rotation, axis
    · 2·sin(angle/2) of the rotation between prediction and truth. Both are divided by the clip's mean motion for that gap, the
    true rotation (measured alike) plus the true distance. So a camera that turns on the spot by 1.1 times the truth is off by
    0.1, fast or slow. Gaps that fit no pair of frames are left out; for a single frame both losses are 0.
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
    """cam_from_world [...,3,4]; a zero quaternion, which a network may predict, counts as no rotation."""
    quaternion = pose_encoding[..., 3:7]
    is_zero = jnp.sum(jnp.square(quaternion), -1, keepdims=True) == 0
    rotation = rotation_from_quaternion(jnp.where(is_zero, jnp.array([0.0, 0.0, 0.0, 1.0]), quaternion))
    return jnp.concatenate((rotation, pose_encoding[..., :3, None]), axis=-1)


def _turn(rotation: jax.Array) -> jax.Array:
    """Axis [...,3] times 2·sin(angle/2) of rotations [...,3,3]: nearly the angle, and differentiable at 0."""
    return 2 * quaternion_from_rotation(rotation)[..., :3]
