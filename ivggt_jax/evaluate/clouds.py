"""Point clouds: neighbours, normals, thinning and clean-up. Points are float64 [N, 3], lengths in the points' unit."""

from collections.abc import Iterator

import numpy as np
from scipy.spatial import KDTree

from ivggt_jax.writers.fusion import VoxelGrid

_CHUNK = 1 << 16
"""Points whose neighbourhoods are processed together: 60 MB at 30 neighbours each."""


def tree(points: np.ndarray) -> KDTree:
    """A k-d tree of points [N, 3]. Raises ValueError when there are none or they are not finite."""
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"a cloud must be [N, 3] with N at least 1, not {points.shape}")
    return KDTree(points)


def nearest(points: np.ndarray, others: KDTree, within: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
    """Distance [N] from each point to the nearest of the others, and the index [N] of that one.

    Only those closer than `within` are looked for, which saves time. Where there is none, the distance is infinite and the index
    `others.n`, which is out of range.
    """
    distance, index = others.query(points, distance_upper_bound=within, workers=-1)
    return distance, index


def estimate_normals(points: np.ndarray, neighbours: int = 30, radius: float = np.inf) -> np.ndarray:
    """Unit normals float64 [N, 3] of either sign: the direction in which a point's neighbourhood is thinnest.

    The neighbourhood is the nearest `neighbours` points, including the point itself, that are closer than `radius`. Its thinnest
    direction is the eigenvector of the covariance with the smallest eigenvalue (Hoppe et al., "Surface reconstruction from
    unorganized points", SIGGRAPH 1992). With fewer than three points the normal is (0, 0, 1).
    """
    normals = np.empty((len(points), 3))
    padded = np.concatenate((points, np.zeros((1, 3))))  # the row for missing neighbours
    for part, _, index in _neighbourhoods(points, neighbours, radius):
        present = (index < len(points))[..., None]
        count = present.sum(axis=1)
        around = padded[index]
        mean = np.where(present, around, 0).sum(axis=1) / count
        offset = np.where(present, around - mean[:, None], 0)
        _, vectors = np.linalg.eigh(offset.transpose(0, 2, 1) @ offset)
        normals[part] = np.where(count < 3, (0, 0, 1), vectors[..., 0])
    return normals


def remove_outliers(points: np.ndarray, neighbours: int = 100, deviations: float = 1.0) -> np.ndarray:
    """The points of a cloud [N, 3] without those far from their neighbours; N becomes smaller.

    A point is removed when its mean distance to its nearest `neighbours` points (including itself) is more than `deviations`
    standard deviations above the cloud's mean. Points that coincide with all their neighbours are removed too. (Rusu et al.,
    "Towards 3D point cloud based object maps for household environments", 2008; as in Open3D.)
    """
    mean_distance = np.empty(len(points))
    for part, distance, _ in _neighbourhoods(points, min(neighbours, len(points)), np.inf):
        mean_distance[part] = distance.mean(axis=1)
    limit = mean_distance.mean() + deviations * mean_distance.std(ddof=1)
    return points[(mean_distance > 0) & (mean_distance < limit)]


def voxel_downsample(points: np.ndarray, voxel: float) -> np.ndarray:
    """The mean of the points in each occupied cube of side `voxel`. The grid starts half a cube below the minimum."""
    if len(points) == 0:
        return points
    origin = points.min(axis=0) - voxel / 2
    grid = VoxelGrid(voxel, len(points))
    grid.add(points - origin, np.zeros((len(points), 3), np.uint8))
    return grid.cloud()[0].astype(np.float64) + origin


def _neighbourhoods(
    points: np.ndarray, neighbours: int, radius: float
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """For each part of the cloud: distances and indices [n, neighbours] of each point's nearest points.

    Missing neighbours have infinite distance and the number of points as index.
    """
    cloud = tree(points)
    for start in range(0, len(points), _CHUNK):
        part = slice(start, start + _CHUNK)
        distance, index = cloud.query(points[part], k=range(1, neighbours + 1), distance_upper_bound=radius, workers=-1)
        yield part, distance, index
