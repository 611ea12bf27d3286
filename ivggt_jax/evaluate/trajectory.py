"""Errors of a camera trajectory: absolute and relative, in translation and rotation, after a given alignment.

ATE and RPE follow Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems", IROS 2012, and agree with evo. Both
trajectories are world_from_cam; a model's predictions, cam_from_world, must be inverted first (`inverse`).
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from ivggt_jax.trajectories.alignment import Alignment, align_trajectory, compose, inverse
from ivggt_jax.transforms import Similarity


@dataclass(frozen=True, eq=False)
class TrajectoryErrors:
    """Errors of each frame of a trajectory; NaN where the truth is unknown."""

    alignment: Alignment
    truth_from_prediction: Similarity
    aligned: np.ndarray
    """float64 [S, 3, 4]: the predicted cameras, world_from_cam, after alignment."""
    translation: np.ndarray
    """float64 [S]: distance between predicted and true position, in the truth's unit."""
    rotation: np.ndarray
    """float64 [S]: angle between predicted and true orientation, in degrees."""
    relative_translation: np.ndarray
    """float64 [S − delta]: length of the translation error of the relative pose over `delta` frames."""
    relative_rotation: np.ndarray
    """float64 [S − delta]: angle of its rotation error, in degrees."""

    def summary(self) -> dict[str, float]:
        """A number per measure: `ate` and `rpe_*` are root mean squares; rotations in degrees."""
        return {
            "ate": _root_mean_square(self.translation),
            "translation_mean": _mean(self.translation),
            "translation_max": float(np.nanmax(self.translation)),
            "rotation_mean_degrees": _mean(self.rotation),
            "rotation_max_degrees": float(np.nanmax(self.rotation)),
            "rpe_translation": _root_mean_square(self.relative_translation),
            "rpe_rotation_degrees": _root_mean_square(self.relative_rotation),
        }


def evaluate_trajectory(
    prediction: np.ndarray, truth: np.ndarray, alignment: Alignment = "sim3", delta: int = 1
) -> TrajectoryErrors:
    """Align a predicted trajectory to the true one and measure the errors.

    prediction, truth [S, 3, 4] (or [S, 4, 4]): world_from_cam, frame by frame. A pose of the truth that is not finite is unknown,
    and its frame is left out. Relative errors use all pairs of frames `delta` apart with known truth. Raises ValueError for other
    shapes, an unknown alignment, a prediction that is not finite, fewer than two frames, too few with truth (three; one if the
    alignment is `none`), or a scale to be fitted to a true camera that does not move.
    """
    prediction, truth = _cameras("prediction", prediction), _cameras("truth", truth)
    if len(prediction) != len(truth):
        raise ValueError(f"prediction has {len(prediction)} frames and truth {len(truth)}: they must correspond")
    if len(truth) < 2:
        raise ValueError("a path needs at least two frames")
    if not 1 <= delta < len(truth):
        raise ValueError(f"delta must be at least 1 and less than the {len(truth)} frames, not {delta}")
    finite = np.isfinite(prediction).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"prediction of frame {int(np.argmin(finite))} is not finite")
    known = np.isfinite(truth).all(axis=(1, 2))
    if not known.any():
        raise ValueError(f"the true pose is known of none of the {len(truth)} frames")
    truth = np.where(known[:, None, None], truth, np.nan)
    transform = align_trajectory(prediction[known], truth[known], alignment)
    aligned = transform.poses(prediction)
    error = compose(inverse(truth), aligned)
    relative = compose(
        compose(inverse(truth[delta:]), truth[:-delta]), compose(inverse(aligned[:-delta]), aligned[delta:])
    )
    return TrajectoryErrors(
        alignment=alignment,
        truth_from_prediction=transform,
        aligned=aligned,
        translation=np.linalg.norm(aligned[..., 3] - truth[..., 3], axis=-1),
        rotation=_angles(error),
        relative_translation=np.linalg.norm(relative[..., 3], axis=-1),
        relative_rotation=_angles(relative),
    )


def straight_line(frames: int) -> np.ndarray:
    """Cameras [S, 3, 4] (world_from_cam) on a straight line with equal steps: a baseline that uses no image."""
    cameras = np.tile(np.eye(3, 4), (frames, 1, 1))
    cameras[:, 2, 3] = np.arange(frames)
    return cameras


def _angles(transform: np.ndarray) -> np.ndarray:
    """Rotation angles [...] in degrees of rigid transforms [..., 3, 4]; NaN where they are not finite."""
    angles = np.full(len(transform), np.nan)
    known = np.isfinite(transform).all(axis=(1, 2))
    if known.any():
        angles[known] = np.degrees(Rotation.from_matrix(transform[known, :, :3]).magnitude())
    return angles


def _cameras(name: str, transform: np.ndarray) -> np.ndarray:
    """The [S, 3, 4] part of [S, 3, 4] or [S, 4, 4], in float64."""
    if transform.ndim != 3 or transform.shape[1:] not in ((3, 4), (4, 4)):
        raise ValueError(f"{name} has shape {transform.shape}; world-from-camera must be [S, 3, 4] or [S, 4, 4]")
    return transform[:, :3].astype(np.float64)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(_mean(values**2)))
