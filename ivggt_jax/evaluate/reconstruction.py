"""Errors of reconstructed points against the true surface: accuracy, completeness, normal consistency, Chamfer, F-score.

A sequence is given as frames: an object that can be iterated more than once and yields (prediction, truth), two [N, 3] arrays of
points of the same pixels, for every frame; the truth is in metres, in the first camera's frame. The `fixed` alignment reads it
twice and needs the memory of one frame and of two grids of bounded size, for any length. The published ones, which search nearest
neighbours among all pixels, hold every point of the sequence in memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ivggt_jax.evaluate.clouds import estimate_normals, nearest, tree
from ivggt_jax.evaluate.icp import register
from ivggt_jax.trajectories.alignment import SimilarityFit, umeyama
from ivggt_jax.transforms import Similarity
from ivggt_jax.writers.fusion import VoxelGrid

Alignment = Literal["published", "published_projected", "fixed"]
"""Alignment of the prediction before errors are measured.

`published` (points from the point head): the depth of the middle point and the spread around it, of whole frames
(`align_medians`), then point-to-point ICP within 0.1 m. `published_projected` (depth unprojected with the predicted cameras): the
least-squares similarity of corresponding points, then the same ICP. `fixed`: that similarity only, with both clouds averaged in
cubes of 1 cm. There is no iteration, start or threshold that the result could depend on, and surfaces count by area, not by how
long the camera looked at them.
"""

Frames = Iterable[tuple[np.ndarray, np.ndarray]]

ICP_THRESHOLD = 0.1
"""In metres; as published."""
FIXED_VOXEL = 0.01
"""In metres."""
_FIXED_CUBES = 4_000_000
"""Most cubes in each cloud; 230 MB. A scene that needs more is averaged in larger cubes."""


@dataclass(frozen=True)
class ReconstructionErrors:
    """Errors between two clouds, in their unit; normal consistency is the cosine between normals, at best 1."""

    accuracy: float
    """mean distance from a predicted point to the nearest true one"""
    accuracy_median: float
    completeness: float
    """mean distance from a true point to the nearest predicted one"""
    completeness_median: float
    chamfer: float
    """mean of accuracy and completeness"""
    normal_consistency: float
    """mean of the next two"""
    normal_consistency_accuracy: float
    """mean over predicted points and their nearest true ones (NC1)"""
    normal_consistency_completeness: float
    """mean over true points and their nearest predicted ones (NC2)"""
    normal_consistency_median: float
    """mean of the two medians"""
    precision: dict[float, float]
    """threshold → share of predicted points closer than it to the truth"""
    recall: dict[float, float]
    """threshold → share of true points closer than it to the prediction"""
    f_score: dict[float, float]
    """threshold → harmonic mean of the two"""

    def summary(self) -> dict[str, float]:
        """A number per measure; those with a threshold are named like `precision@0.05`."""
        flat: dict[str, float] = {}
        for name, value in vars(self).items():
            if isinstance(value, dict):
                flat |= {f"{name}@{threshold:g}": share for threshold, share in value.items()}
            else:
                flat[name] = value
        return flat


@dataclass(frozen=True, eq=False)
class ReconstructionEvaluation:
    """Errors of one sequence, and how its prediction was aligned."""

    alignment: str
    truth_from_prediction: Similarity
    predicted_points: int
    true_points: int
    """points that were compared, in either cloud"""
    errors: ReconstructionErrors
    frames: tuple[float, ...] = ()
    """mean distance between the points of the same pixels in each frame, after the alignment; NaN for an empty frame"""
    voxel: float | None = None
    """Side of the cubes in which both clouds were averaged (the larger, if a cloud outgrew its grid); None if they were not"""


def evaluate_reconstruction(
    frames: Frames,
    alignment: Alignment = "published",
    thresholds: tuple[float, ...] = (0.05,),
    whole: Frames | None = None,
) -> ReconstructionEvaluation:
    """Align the predicted points of a sequence to the true ones and compare the two clouds.

    `whole` are the frames before they were cropped, from which `published` takes its medians; None if they were not. Raises
    ValueError for differing shapes, points that are not finite, an unknown alignment, or fewer than three points.
    """
    if alignment not in get_args(Alignment):
        raise ValueError(f"alignment must be one of {', '.join(get_args(Alignment))}, not {alignment!r}")
    voxel = None
    if alignment == "fixed":
        transform = _fit(frames)
        prediction, truth, voxel = _fused(frames, transform)
    else:
        prediction, truth = _gathered(frames)
        if alignment == "published":
            start = align_medians(prediction, truth) if whole is None else align_medians(*_gathered(whole))
        else:
            start = umeyama(prediction, truth, scale=True)
        transform = register(start.points(prediction), tree(truth), ICP_THRESHOLD).transform.after(start)
        prediction = transform.points(prediction)
    errors = compare_clouds(prediction, truth, thresholds)
    apart = tuple(_mean_distance(transform.points(points), true) for points, true in _checked(frames))
    return ReconstructionEvaluation(alignment, transform, len(prediction), len(truth), errors, apart, voxel)


def align_medians(prediction: np.ndarray, truth: np.ndarray) -> Similarity:
    """The published alignment of points from the point head, [N, 3] each, in the first camera's frame.

    It equalises the median depths z. The scale is the ratio of the median distances from the middle point (the median of each
    coordinate), with the prediction's clipped to [1e-3, 1e3]. Raises ValueError for fewer than three points.
    """
    if prediction.shape != truth.shape or len(truth) < 3:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} must both be [N, 3] with N at least 3")
    spreads = [np.median(np.linalg.norm(x - np.median(x, axis=0), axis=1)) for x in (prediction, truth)]
    scale = float(spreads[1] / np.clip(spreads[0], 1e-3, 1e3))
    shift = np.median(truth[:, 2]) - scale * np.median(prediction[:, 2])
    return Similarity(scale, translation=np.array([0, 0, shift]))


def compare_clouds(
    prediction: np.ndarray, truth: np.ndarray, thresholds: tuple[float, ...] = (0.05,)
) -> ReconstructionErrors:
    """Errors between two clouds [N, 3] and [M, 3], without alignment.

    Thresholds are in the points' unit. Normals are estimated from 30 neighbours; their sign is ignored. Raises ValueError when a
    cloud is empty or not finite.
    """
    to_truth, true_index = nearest(prediction, tree(truth))
    to_prediction, predicted_index = nearest(truth, tree(prediction))
    normals, true_normals = estimate_normals(prediction), estimate_normals(truth)
    first = np.abs(np.einsum("ni,ni->n", normals, true_normals[true_index]))
    second = np.abs(np.einsum("ni,ni->n", true_normals, normals[predicted_index]))
    precision = {threshold: float(np.mean(to_truth < threshold)) for threshold in thresholds}
    recall = {threshold: float(np.mean(to_prediction < threshold)) for threshold in thresholds}
    return ReconstructionErrors(
        accuracy=float(to_truth.mean()),
        accuracy_median=float(np.median(to_truth)),
        completeness=float(to_prediction.mean()),
        completeness_median=float(np.median(to_prediction)),
        chamfer=float(to_truth.mean() + to_prediction.mean()) / 2,
        normal_consistency=float(first.mean() + second.mean()) / 2,
        normal_consistency_accuracy=float(first.mean()),
        normal_consistency_completeness=float(second.mean()),
        normal_consistency_median=float(np.median(first) + np.median(second)) / 2,
        precision=precision,
        recall=recall,
        f_score={threshold: _harmonic(precision[threshold], recall[threshold]) for threshold in thresholds},
    )


def _gathered(frames: Frames) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true points [N, 3] of all frames."""
    parts = [(np.zeros((0, 3)), np.zeros((0, 3))), *_checked(frames)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _fit(frames: Frames) -> Similarity:
    """The least-squares similarity of the corresponding points of all frames."""
    fit = SimilarityFit()
    for prediction, truth in _checked(frames):
        fit.add(prediction, truth)
    return fit.solve(scale=True)


def _fused(frames: Frames, transform: Similarity) -> tuple[np.ndarray, np.ndarray, float]:
    """Aligned prediction and truth, each averaged in cubes, and the larger cubes' side."""
    grids = VoxelGrid(FIXED_VOXEL, _FIXED_CUBES), VoxelGrid(FIXED_VOXEL, _FIXED_CUBES)
    # Walls often lie at round coordinates. The offset moves them off the cubes' borders, where rounding would split them.
    offset = FIXED_VOXEL * (np.sqrt(5) - 1) / 2
    for prediction, truth in _checked(frames):
        for grid, points in zip(grids, (transform.points(prediction), truth), strict=True):
            grid.add(points + offset, np.zeros(points.shape, np.uint8))
    prediction, truth = (grid.cloud()[0].astype(np.float64) - offset for grid in grids)
    return prediction, truth, max(float(grid.voxel or 0) for grid in grids)


def _checked(frames: Frames) -> Frames:
    """The frames in float64, checked."""
    for index, (prediction, truth) in enumerate(frames):
        if prediction.shape != truth.shape or truth.ndim != 2 or truth.shape[1] != 3:
            raise ValueError(
                f"frame {index}: prediction {prediction.shape} and truth {truth.shape} must both be [N, 3]"
            )
        for name, points in (("predicted", prediction), ("true", truth)):
            if not np.isfinite(points).all():
                raise ValueError(f"frame {index}: a {name} point is not finite")
        yield prediction.astype(np.float64), truth.astype(np.float64)


def _mean_distance(points: np.ndarray, others: np.ndarray) -> float:
    return float(np.linalg.norm(points - others, axis=1).mean()) if len(points) else float("nan")


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0
