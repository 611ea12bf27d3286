"""Iterative closest points: the rigid motion from one cloud to another, from a start that is nearly right."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from ivggt_jax.evaluate.clouds import nearest
from ivggt_jax.trajectories.alignment import umeyama
from ivggt_jax.transforms import Similarity


@dataclass(frozen=True, eq=False)
class Registration:
    """The result of ICP."""

    transform: Similarity
    """From source to target; of scale 1."""
    fitness: float
    """Share of source points that have a target point within the threshold."""
    rmse: float
    """Root mean square distance of these pairs."""
    iterations: int


def register(
    source: np.ndarray,
    target: KDTree,
    threshold: float,
    target_normals: np.ndarray | None = None,
    iterations: int = 30,
    tolerance: float = 1e-6,
) -> Registration:
    """Align points source [N, 3] rigidly to a target cloud, starting where they are.

    Every iteration pairs each source point with the nearest target point, if that is closer than `threshold`, and applies the
    best motion for these pairs: point to point (Besl and McKay, PAMI 1992) or, given the target's normals [M, 3], point to plane,
    linearised for small angles (Chen and Medioni, 1992). It ends when fitness and rmse both change by less than `tolerance`, or
    after `iterations`; these criteria are Open3D's. With fewer pairs than a motion needs (three; six for planes) the points stay.
    """
    transform, moved, done = Similarity(), source, 0
    matches, index, distance = _pairs(source, target, threshold)
    fitness, rmse = _quality(distance, len(source))
    while done < iterations and len(matches) >= (3 if target_normals is None else 6):
        if target_normals is None:
            step = umeyama(moved[matches], target.data[index], scale=False)
        else:
            step = _to_planes(moved[matches], target.data[index], target_normals[index])
        transform = step.after(transform)
        moved = transform.points(source)
        matches, index, distance = _pairs(moved, target, threshold)
        previous, (fitness, rmse) = (fitness, rmse), _quality(distance, len(source))
        done += 1
        if abs(previous[0] - fitness) < tolerance and abs(previous[1] - rmse) < tolerance:
            break
    return Registration(transform, fitness, rmse, done)


def _pairs(points: np.ndarray, target: KDTree, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points with a target point within the threshold: their indices, those of the target points, and the distances."""
    distance, index = nearest(points, target, threshold)
    matches = np.flatnonzero(distance < threshold)
    return matches, index[matches], distance[matches]


def _quality(distance: np.ndarray, count: int) -> tuple[float, float]:
    """Fitness and rmse of pairs with these distances."""
    return len(distance) / count, float(np.sqrt(np.mean(distance**2))) if len(distance) else 0.0


def _to_planes(source: np.ndarray, target: np.ndarray, normals: np.ndarray) -> Similarity:
    """The small motion that brings the points closest to the planes through the target points."""
    jacobian = np.concatenate((np.cross(source, normals), normals), axis=1)
    residual = np.einsum("ni,ni->n", source - target, normals)
    # A motion that changes nothing, such as that of a plane in itself, is undetermined; the smallest of the best motions is
    # taken.
    motion = np.linalg.lstsq(jacobian.T @ jacobian, -jacobian.T @ residual, rcond=None)[0]
    return Similarity(1.0, Rotation.from_rotvec(motion[:3]).as_matrix(), motion[3:])
