"""Evaluates a student on held-out clips: depth, camera path and point maps, each up to scale."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import jax
import numpy as np

from ivggt_jax.config import HeadName
from ivggt_jax.evaluate.depth import evaluate_depth
from ivggt_jax.evaluate.trajectory import evaluate_trajectory, straight_line
from ivggt_jax.geometry import cameras_from_pose
from ivggt_jax.model.heads import HEADS
from ivggt_jax.model.parameters import Model
from ivggt_jax.train.data.batches import Batch
from ivggt_jax.train.distill import Plan, predict
from ivggt_jax.train.mesh import each_device, gather, place
from ivggt_jax.trajectories.alignment import inverse

STILL = 0.01
"""Length of a path over the median depth, below which a camera stands still: its error has nothing to be compared with."""
FEWEST_FRAMES = 3
"""Fewest frames of a held-out clip; a shorter path has no shape to compare."""
TRUTH = ("images", "depth", "valid", "points", "cam_from_world", "intrinsics")
GIVEN = ("sensor_depth", "moving")
"""Further fields of a batch, used if present."""

JUDGED: dict[HeadName, str] = {
    "camera": "position_error",
    "depth": "abs_rel",
    "points": "point_error",
    "motion": "motion_error",
}
"""The error by which each trained head is judged. All are shares, of the scene's size, of the path's length or of the pixels,
so that they can be added. One of `JUDGES` computes it."""
ALWAYS = ("camera", "depth")
"""Heads that are judged even if they are not trained."""

Clip = dict[str, np.ndarray]
"""Predictions and truth of one clip: `TRUTH`, predicted_cameras [S,3,4], predicted_intrinsics [S,3,3], predicted_depth [S,H,W],
and, if the step trains these heads, predicted_points [S,H,W,3] and predicted_motion [S,H,W]."""


def overall(plan: Plan, errors: Mapping[str, float]) -> float:
    """The error by which students are compared: the sum of the errors in `JUDGED` of the trained heads, as far as known.

    Infinite if none is known.
    """
    found = [errors.get(JUDGED[head], np.nan) for head in plan.step.heads if head in JUDGED]
    known = [error for error in found if not np.isnan(error)]
    return float(sum(known)) if known else np.inf


def evaluate(plan: Plan, model: Model, batches: Sequence[Batch]) -> tuple[dict[str, float], Clip]:
    """Mean errors over all clips of labelled batches, and the first clip.

    `abs_rel`: of depth after the scale with the least absolute error; `constant_abs_rel`: the same for the best constant depth;
    `position_error`: of positions in the first camera's frame, with depth's scale and no other alignment, as root mean square
    over the path's length; `path_error`: ATE after Sim3 over the path's length; `line_path_error`: the same for a straight line
    with equal steps; `rotation_error`: mean angle after Sim3, in degrees; `step_error` and `step_rotation_error`: RPE from frame
    to frame, over the mean step's length and in degrees; `field_of_view_error`: mean error of the horizontal field of view, in
    degrees; `point_error`, if the point head is trained: mean distance after the best scale, over the true points' mean distance
    from the first camera; `metric_abs_rel`, if a sensor's depth came with the first frame: of depth without alignment, in metres;
    `motion_error`, if the motion head is trained: 1 − IoU of moving pixels, predicted above one half. A clip without depth or
    without motion, of the camera or in the scene, is left out of their means. Errors are infinite if predictions are not finite,
    or if depths or points are all zero and so have no scale.
    """
    clips = [clip for batch in batches for clip in _look(plan, model, batch)]
    errors = [dict(chain.from_iterable(judge(clip).items() for judge in JUDGES)) for clip in clips]
    known = {name: [error[name] for error in errors if not np.isnan(error[name])] for name in errors[0]}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in known.items()}, clips[0]


def _look(plan: Plan, model: Model, batch: Batch) -> Iterator[Clip]:
    """All clips of a batch, of which this process loaded a part."""
    names = [*TRUTH, *(name for name in GIVEN if name in batch.arrays)]
    labelled = place(plan.mesh, {name: batch.arrays[name] for name in names})
    arrays = jax.device_get(_predict(plan, model, labelled))
    for clip in range(len(arrays["images"])):
        yield {name: array[clip] for name, array in arrays.items()}


@partial(jax.jit, static_argnames="plan")
def _predict(plan: Plan, model: Model, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch with its predictions, complete on every device."""
    heads = tuple(head for head in JUDGED if head in ALWAYS or head in plan.step.heads)
    config = replace(plan.step, heads=heads)
    found = each_device(plan.mesh, lambda model, batch: predict(config, model, batch, config.mode))(model, batch)
    cameras, intrinsics = cameras_from_pose(found.pose_encoding, *batch["images"].shape[2:4])
    maps = {f"predicted_{head}": getattr(found, HEADS[head].fields[0]) for head in heads if head != "camera"}
    return gather(plan.mesh, {**batch, "predicted_cameras": cameras, "predicted_intrinsics": intrinsics, **maps})


def _scaled_errors(clip: Clip) -> dict[str, float]:
    """Of depth and of the camera's positions, with the scale that fits the clip's depth best."""
    truth = np.where(clip["valid"], clip["depth"], 0)
    if not truth.any():
        return dict.fromkeys(("abs_rel", "constant_abs_rel", "position_error"), np.nan)
    constant = evaluate_depth([(np.ones_like(frame), frame) for frame in truth]).errors.abs_rel
    if not np.isfinite(clip["predicted_depth"]).all() or not clip["predicted_depth"][truth > 0].any():
        return {"abs_rel": np.inf, "constant_abs_rel": constant, "position_error": _position_error(clip, np.inf)}
    found = evaluate_depth(list(zip(clip["predicted_depth"], truth, strict=True)))
    position_error = _position_error(clip, found.scale)
    return {"abs_rel": found.errors.abs_rel, "constant_abs_rel": constant, "position_error": position_error}


def _position_error(clip: Clip, scale: float) -> float:
    """Without alignment but for the scale: on both sides the world is the first camera's frame."""
    truth = inverse(clip["cam_from_world"].astype(np.float64))[:, :, 3]
    length = np.linalg.norm(np.diff(truth, axis=0), axis=-1).sum()
    if length < STILL * np.median(clip["depth"][clip["valid"]]):
        return np.nan
    if not np.isfinite(scale) or not np.isfinite(clip["predicted_cameras"]).all():
        return np.inf
    found = scale * inverse(clip["predicted_cameras"].astype(np.float64))[:, :, 3]
    return float(np.sqrt(np.mean(np.sum(np.square(found - truth), axis=-1))) / length)


def _sensed_errors(clip: Clip) -> dict[str, float]:
    """Without alignment, over all pixels, including those that the sensor did not measure."""
    if "sensor_depth" not in clip:
        return {}
    if not clip["valid"].any() or not (clip["sensor_depth"][0] > 0).any():
        return {"metric_abs_rel": np.nan}
    truth, found = (clip[name][clip["valid"]].astype(np.float64) for name in ("depth", "predicted_depth"))
    return {"metric_abs_rel": float(np.mean(np.abs(found - truth) / truth)) if np.isfinite(found).all() else np.inf}


def _path_errors(clip: Clip) -> dict[str, float]:
    world_from_cam = inverse(clip["cam_from_world"].astype(np.float64))
    steps = np.linalg.norm(np.diff(world_from_cam[:, :, 3], axis=0), axis=-1)
    names = ("path_error", "rotation_error", "step_error", "step_rotation_error")
    if not steps.any():
        return dict.fromkeys((*names, "line_path_error"), np.nan)
    line = evaluate_trajectory(straight_line(len(world_from_cam)), world_from_cam).summary()["ate"] / steps.sum()
    if not np.isfinite(clip["predicted_cameras"]).all():
        return dict.fromkeys(names, np.inf) | {"line_path_error": line}
    found = evaluate_trajectory(inverse(clip["predicted_cameras"].astype(np.float64)), world_from_cam).summary()
    values = (
        found["ate"] / steps.sum(),
        found["rotation_mean_degrees"],
        found["rpe_translation"] / steps.mean(),
        found["rpe_rotation_degrees"],
    )
    return dict(zip(names, values, strict=True)) | {"line_path_error": line}


def _field_of_view_error(clip: Clip) -> dict[str, float]:
    half_width = clip["images"].shape[2] / 2
    focal = (clip[name][:, 0, 0].astype(np.float64) for name in ("intrinsics", "predicted_intrinsics"))
    truth, found = (2 * np.degrees(np.arctan2(half_width, lengths)) for lengths in focal)
    return {"field_of_view_error": float(np.mean(np.abs(found - truth))) if np.isfinite(found).all() else np.inf}


def _point_error(clip: Clip) -> dict[str, float]:
    """Scaled by least squares; on both sides the world is the first camera's frame."""
    if "predicted_points" not in clip:
        return {}
    truth, found = (clip[name][clip["valid"]].astype(np.float64) for name in ("points", "predicted_points"))
    if not len(truth):
        return {"point_error": np.nan}
    if not np.isfinite(found).all() or not found.any():
        return {"point_error": np.inf}
    scale = np.sum(found * truth) / np.sum(np.square(found))
    return {"point_error": _mean_length(scale * found - truth) / _mean_length(truth)}


def _motion_error(clip: Clip) -> dict[str, float]:
    if "predicted_motion" not in clip or "moving" not in clip:
        return {}
    truth, found = (clip[name][clip["valid"]] for name in ("moving", "predicted_motion"))
    if not truth.any():
        return {"motion_error": np.nan}
    if not np.isfinite(found).all():
        return {"motion_error": np.inf}
    return {"motion_error": 1 - float(np.sum(truth & (found > 0.5)) / np.sum(truth | (found > 0.5)))}


JUDGES = (_scaled_errors, _sensed_errors, _path_errors, _field_of_view_error, _point_error, _motion_error)
"""Functions that compute the errors of a clip, as far as it has the truth for them."""


def _mean_length(vectors: np.ndarray) -> float:
    return float(np.mean(np.linalg.norm(vectors, axis=-1)))
