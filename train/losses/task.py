"""Supervised losses against ground truth, up to one scale per clip.

Prediction and ground truth are each divided by the confidence-weighted mean distance of their own points over the whole clip
(DUSt3R's normalisation), so camera, depth and points share one scale, whose value is free. The world of the ground truth is the
first camera's frame.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ivggt_jax.geometry import pose_from_cameras
from ivggt_jax.train.losses.camera import camera_loss, relative_pose_loss
from ivggt_jax.train.losses.motion import motion_loss
from ivggt_jax.train.losses.reduce import EPSILON, masked_mean, norm
from ivggt_jax.train.losses.tracks import track_loss

CONFIDENCE_REWARD = 0.2
CAMERA_DELTA = 0.02
"""Where the camera's Huber loss becomes linear. A step between video frames is a few hundredths of a scene's size, and within the
distillation loss's 0.1 it would have hardly any weight."""
VIEW_DELTA = 0.2
"""The same for the field of view, in radians. A network that hardly knows it is wrong by a tenth; with less, the gradient would be
a sign that changes from clip to clip."""
CLIP = (1, 2, 3)
_LENGTHS = {"pose_encoding", "depth", "points"}


def task_losses(prediction: Mapping[str, jax.Array], batch: Mapping[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
    """Losses of every predicted head that has ground truth, and of relative camera poses, by head and term.

    prediction: fields of `Predictions` [B,S,…] by name. batch: valid bool [B,S,H,W], depth [B,S,H,W], points [B,S,H,W,3],
    cam_from_world [B,S,3,4], intrinsics [B,S,3,3]; for tracks also tracks [B,S,N,2] and visibility [B,S,N]; for motion also
    moving bool [B,S,H,W]. Ground truth outside `valid` may be anything. If `sensor_depth` [B,S,H,W] has any measurement in the
    first frame, the scale is not free. Raises ValueError when cameras are predicted without depth or points, because nothing else
    fixes the scale.
    """
    losses = _geometric_losses(prediction, batch) if _LENGTHS & set(prediction) else {}
    if "tracks" in prediction and "tracks" in batch:
        visible = batch["visibility"]
        losses["tracks"] = track_loss(
            prediction["tracks"], prediction["visibility"], prediction["track_confidence"],
            batch["tracks"], visible.astype(jnp.float32), visible > 0.5,
        )  # fmt: skip
    if "motion" in prediction and "moving" in batch:
        losses["motion"] = motion_loss(prediction["motion"], batch["moving"], batch["valid"])
    return losses


def _geometric_losses(
    prediction: Mapping[str, jax.Array], batch: Mapping[str, jax.Array]
) -> dict[str, dict[str, jax.Array]]:
    """The losses in `task_losses` that depend on lengths, and so on a scale."""
    valid = batch["valid"]
    head = "points" if "points" in prediction else "depth"
    if head not in prediction:
        raise ValueError(f"the task loss needs predicted depth or points for its scale, not only {sorted(prediction)}")
    truth = {name: jnp.where(_match(valid, batch[name]), batch[name], 0.0) for name in ("depth", "points")}
    scale, true_scale = clip_scales(prediction[head], truth[head], prediction[f"{head}_confidence"], valid)
    if "sensor_depth" in batch:
        # If depth of the first frame was given, lengths are in the sensor's unit, which is the truth's.
        told = jnp.any(batch["sensor_depth"][:, :1] > 0, CLIP, keepdims=True)
        scale = jnp.where(told, true_scale, scale)
    losses = {
        name: _dense_loss(prediction[name] / _match(scale, truth[name]), truth[name] / _match(true_scale, truth[name]),
                          prediction[f"{name}_confidence"], valid)
        for name in ("depth", "points") if name in prediction
    }  # fmt: skip
    if "depth" in prediction:
        losses["log_depth"] = log_depth_loss(prediction["depth"] / scale, truth["depth"] / true_scale, valid)
    if "pose_encoding" in prediction:
        known = jnp.any(valid, CLIP)[:, None]
        pose = pose_from_cameras(batch["cam_from_world"], batch["intrinsics"], *valid.shape[-2:])
        found = _with_scale(prediction["pose_encoding"], scale[..., 0, 0], known)
        wanted = _with_scale(pose, true_scale[..., 0, 0], known)
        losses["camera"] = camera_loss(found, wanted, delta=CAMERA_DELTA, view_delta=VIEW_DELTA)
        losses["relative"] = relative_pose_loss(found, wanted)
    return losses


def clip_scales(
    prediction: jax.Array, truth: jax.Array, confidence: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Confidence-weighted mean distances [B,1,1,1] of both maps ([B,S,H,W] or [B,S,H,W,3]), at least 1e-3.

    The weights are the log of the predicted confidence, without gradient. 1 for a clip without valid pixels.
    """
    weights = jnp.where(valid, jnp.maximum(jnp.log(jax.lax.stop_gradient(confidence)), 1e-3), 0.0)
    total = jnp.sum(weights, CLIP, keepdims=True)

    def scale(values: jax.Array) -> jax.Array:
        distance = norm(values) if values.ndim == 5 else jnp.abs(values)
        mean = jnp.sum(jnp.where(valid, distance, 0.0) * weights, CLIP, keepdims=True) / (total + 1e-8)
        return jnp.where(total > 0, jnp.maximum(mean, 1e-3), 1.0)

    return scale(prediction), scale(truth)


def _dense_loss(
    prediction: jax.Array, truth: jax.Array, confidence: jax.Array, valid: jax.Array
) -> dict[str, jax.Array]:
    """Confidence-weighted distance minus a reward for confidence; all images have equal weight."""
    difference = prediction - truth
    distance = norm(difference) if difference.ndim == 5 else jnp.abs(difference)
    return {
        "error": jnp.mean(masked_mean(confidence * distance, valid, (2, 3))),
        "confidence": -CONFIDENCE_REWARD * jnp.mean(masked_mean(jnp.log(confidence), valid, (2, 3))),
    }


def log_depth_loss(prediction: jax.Array, truth: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
    """Mean absolute error of log depth, so that a relative error counts alike near and far; all images have equal weight.

    prediction, truth: [B,S,H,W] in one unit; valid: bool [B,S,H,W].
    """
    error = jnp.log(jnp.maximum(prediction, EPSILON)) - jnp.log(jnp.where(valid, truth, 1.0))
    return {"error": jnp.mean(masked_mean(jnp.abs(error), valid, (2, 3)))}


def _match(values: jax.Array, like: jax.Array) -> jax.Array:
    """Per-pixel values [B,S,H,W], with a channel axis if `like` has one."""
    return values[..., None] if like.ndim == 5 else values


def _with_scale(pose_encoding: jax.Array, scale: jax.Array, known: jax.Array) -> jax.Array:
    """Pose encodings [B,S,9] with translations divided by scales [B,1]; zero, and so not compared, where no scale is known."""
    translation, rest = jnp.split(pose_encoding, (3,), axis=-1)
    return jnp.concatenate([jnp.where(known[..., None], translation / scale[..., None], 0.0), rest], -1)
