"""Similarities between a prediction and its truth, in float64.

The library's geometry runs in JAX's default float32, which is too coarse for evaluations that must agree with other tools to
1e-6, hence NumPy here. Rigid transforms are [3, 4] matrices [R | t], as everywhere in the project.
"""

from typing import Literal, get_args

import numpy as np

from ivggt_jax.transforms import Similarity

Alignment = Literal["sim3", "se3", "scale", "none"]
"""Alignment before errors are measured. `sim3`: scale, rotation and translation (Umeyama on the positions); `se3`: rotation and
translation; `scale`: only Umeyama's scale, about the origin; `none`: nothing. For the last two the caller brings both
trajectories into one frame (`relative_to_first`)."""


class SimilarityFit:
    """Least-squares similarity between corresponding points that arrive in parts, in the memory of one part.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991. Moments are merged
    about the running means, so that clouds far from the origin lose no precision.
    """

    def __init__(self) -> None:
        self.count = 0
        self._source_mean, self._target_mean = np.zeros(3), np.zeros(3)
        self._source_spread, self._target_spread, self._cross = 0.0, 0.0, np.zeros((3, 3))

    def add(self, source: np.ndarray, target: np.ndarray) -> None:
        """Add points [N, 3] as pairs (source[i], target[i]). Raises ValueError for other shapes."""
        if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3:
            raise ValueError(f"source {source.shape} and target {target.shape} must both be [N, 3]")
        if len(source) == 0:
            return
        source, target = source.astype(np.float64), target.astype(np.float64)
        source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
        source_step, target_step = source_mean - self._source_mean, target_mean - self._target_mean
        total = self.count + len(source)
        between = self.count * len(source) / total
        self._source_spread += float(np.sum((source - source_mean) ** 2) + between * source_step @ source_step)
        self._target_spread += float(np.sum((target - target_mean) ** 2) + between * target_step @ target_step)
        self._cross += (target - target_mean).T @ (source - source_mean) + between * np.outer(target_step, source_step)
        self._source_mean += source_step * len(source) / total
        self._target_mean += target_step * len(source) / total
        self.count = total

    def solve(self, *, scale: bool, orientations: np.ndarray | None = None) -> Similarity:
        """The map target ≈ similarity(source); its scale is 1 if `scale` is False.

        Points on a line, or all in one place, leave a rotation undetermined. Among the best rotations, the one is then chosen
        that agrees most with `orientations` [3, 3], a sum of target · sourceᵀ over rotation matrices (the cameras'); with None,
        the smallest. If all source points coincide, the scale is 1. Raises ValueError for fewer than three points, and with
        `scale` if only the target points coincide, because scale 0 would fit anything to them.
        """
        if self.count < 3:
            raise ValueError(f"a similarity needs at least 3 corresponding points, not {self.count}")
        # A spread at the level of float64 rounding counts as none, because a scale fitted to it would be noise.
        moved = self._source_spread > 1e-24 * self.count * (self._source_mean @ self._source_mean)
        if scale and moved and not self._target_spread > 1e-24 * self.count * (self._target_mean @ self._target_mean):
            raise ValueError("the true points or camera positions all coincide: no scale can be fitted to them")
        cross = self._cross if moved else np.zeros((3, 3))
        strengths = np.linalg.svd(cross, compute_uv=False)
        if strengths[1] <= 1e-9 * strengths[0]:
            wanted = np.eye(3) if orientations is None else orientations
            cross = cross + wanted * (1e-9 * (strengths[0] or 1.0) / np.linalg.norm(wanted))
        left, _, right = np.linalg.svd(cross)
        signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
        rotation = (left * signs) @ right
        factor = float(np.sum(rotation * self._cross) / self._source_spread) if scale and moved else 1.0
        return Similarity(factor, rotation, self._target_mean - factor * rotation @ self._source_mean)


def umeyama(source: np.ndarray, target: np.ndarray, *, scale: bool) -> Similarity:
    """Least-squares similarity (rigid if `scale` is False) from points source [N, 3] to target [N, 3].

    For points on a line it rotates as little as possible. Raises ValueError for other shapes or fewer than three points.
    """
    fit = SimilarityFit()
    fit.add(source, target)
    return fit.solve(scale=scale)


def align_trajectory(prediction: np.ndarray, truth: np.ndarray, alignment: Alignment) -> Similarity:
    """The map from predicted cameras [S, 3, 4] (world_from_cam) to the true ones, fitted to their positions.

    If the positions lie on a line (a corridor), the rotation about it comes from the cameras' orientations. Raises ValueError for
    an unknown alignment or, unless it is `none`, fewer than three frames; and with a scale if only the predicted camera moves.
    """
    if alignment not in get_args(Alignment):
        raise ValueError(f"alignment must be one of {', '.join(get_args(Alignment))}, not {alignment!r}")
    if alignment == "none":
        return Similarity()
    fit = SimilarityFit()
    fit.add(prediction[..., 3], truth[..., 3])
    orientations = np.einsum("sij,skj->ik", truth[..., :3], prediction[..., :3])
    similarity = fit.solve(scale=alignment != "se3", orientations=orientations)
    return Similarity(scale=similarity.scale) if alignment == "scale" else similarity


def inverse(transform: np.ndarray) -> np.ndarray:
    """Inverse [..., 3, 4] of rigid transforms [..., 3, 4], such as world_from_cam from cam_from_world."""
    rotation = np.swapaxes(transform[..., :3], -1, -2)
    return np.concatenate((rotation, -rotation @ transform[..., 3:]), axis=-1)


def compose(a_from_b: np.ndarray, b_from_c: np.ndarray) -> np.ndarray:
    """a_from_c [..., 3, 4] from two rigid transforms [..., 3, 4]."""
    rotation = a_from_b[..., :3]
    return np.concatenate((rotation @ b_from_c[..., :3], rotation @ b_from_c[..., 3:] + a_from_b[..., 3:]), axis=-1)


def relative_to_first(world_from_cam: np.ndarray) -> np.ndarray:
    """Cameras [S, 3, 4] expressed in the first camera's frame, which is the world of every prediction."""
    return compose(inverse(world_from_cam[:1]), world_from_cam)
