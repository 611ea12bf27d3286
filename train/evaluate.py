"""How good a student is on held-out clips: depth and camera path, each up to scale."""

from collections.abc import Iterable

import jax
import numpy as np

from ivggt_jax import Model, cameras_from_pose, infer_clip
from ivggt_jax.evaluate.depth import evaluate_depth
from ivggt_jax.evaluate.trajectory import evaluate_trajectory, inverse
from train.data.batches import Batch


def evaluate(model: Model, batches: Iterable[Batch], mode: str) -> dict[str, float]:
    """Mean errors over all clips of labelled batches.

    `abs_rel`: of depth after the scale with the least absolute error; `constant_abs_rel`: the same of the best constant
    depth; `path_error`: ATE after Sim3 over the path's length; `rotation_error`: mean angle after Sim3, in degrees.
    """
    errors: list[dict[str, float]] = []
    for batch in batches:
        images = batch.arrays["images"]
        found = infer_clip(model, images, mode, heads=("camera", "depth"))  # type: ignore[arg-type]
        cameras, _ = cameras_from_pose(found.pose_encoding, *images.shape[2:4])
        depth, cameras = jax.device_get((found.depth, cameras))
        for clip in range(len(images)):
            truth = {name: batch.arrays[name][clip] for name in ("depth", "valid", "cam_from_world")}
            errors.append(_clip_errors(depth[clip], cameras[clip], truth))
    return {name: float(np.mean([error[name] for error in errors])) for name in errors[0]}


def _clip_errors(depth: np.ndarray, cameras: np.ndarray, truth: dict[str, np.ndarray]) -> dict[str, float]:
    true_depth = np.where(truth["valid"], truth["depth"], 0)
    world_from_cam = inverse(truth["cam_from_world"].astype(np.float64))
    path = evaluate_trajectory(inverse(cameras.astype(np.float64)), world_from_cam).summary()
    length = np.linalg.norm(np.diff(world_from_cam[:, :, 3], axis=0), axis=-1).sum()
    return {
        "abs_rel": evaluate_depth(list(zip(depth, true_depth, strict=True))).errors.abs_rel,
        "constant_abs_rel": evaluate_depth([(np.ones_like(x), x) for x in true_depth]).errors.abs_rel,
        "path_error": path["ate"] / length,
        "rotation_error": path["rotation_mean_degrees"],
    }
