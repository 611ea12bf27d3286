"""Iterative closest points: the rigid motion that brings one cloud onto another, from a start that is nearly right."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from ivggt_jax.evaluate.clouds import nearest
from ivggt_jax.trajectories.alignment import umeyama
from ivggt_jax.transforms import Similarity


@dataclass(frozen=True, eq=False)
class Registration:
    """What ICP found."""

    transform: Similarity
    """Takes the source to the target; of scale 1."""
    fitness: float
    """Share of source points that have a target point within the threshold."""
    rmse: float
    """Root mean square distance of those to it."""
    iterations: int


def register(
    source: np.ndarray,
    target: KDTree,
    threshold: float,
    target_normals: np.ndarray | None = None,
    iterations: int = 30,
    tolerance: float = 1e-6,
) -> Registration:
    """Moves points source [N, 3] rigidly onto a target cloud, starting where they are.

    Every iteration pairs each source point with the nearest target point, where that is closer than `threshold`, and
    takes the motion that is best for these pairs: point to point (Besl and McKay, PAMI 1992) or, given the target's
    normals [M, 3], point to plane, linearised for small angles (Chen and Medioni, 1992). It ends when fitness and rmse
    both change by less than `tolerance`, or after `iterations`; the same criteria as Open3D's. With fewer pairs than a
    motion needs (three; six to planes) it stays where it is.
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
    """Points with a target point closer than the threshold: their indices, that point's, and the distances."""
    distance, index = nearest(points, target)
    matches = np.flatnonzero(distance < threshold)
    return matches, index[matches], distance[matches]


def _quality(distance: np.ndarray, count: int) -> tuple[float, float]:
    """Fitness and rmse of the pairs at these distances."""
    return len(distance) / count, float(np.sqrt(np.mean(distance**2))) if len(distance) else 0.0


def _to_planes(source: np.ndarray, target: np.ndarray, normals: np.ndarray) -> Similarity:
    """The small motion after which the points lie closest to the planes through the target points."""
    jacobian = np.concatenate((np.cross(source, normals), normals), axis=1)
    residual = np.einsum("ni,ni->n", source - target, normals)
    # A motion along which nothing changes (a plane in itself) is not determined: the least of the best ones is taken.
    motion = np.linalg.lstsq(jacobian.T @ jacobian, -jacobian.T @ residual, rcond=None)[0]
    return Similarity(1.0, Rotation.from_rotvec(motion[:3]).as_matrix(), motion[3:])
