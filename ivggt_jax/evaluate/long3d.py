"""The Long3D protocol: one cloud of a long video against one laser scan, without common poses or pixels.

Both clouds are held in memory. A caller that collects the predictions of very many frames thins them on the way
(`writers.fusion.VoxelGrid`), in cubes much smaller than those of the protocol: averages of averages are other points.
"""

import numpy as np

from ivggt_jax.evaluate.clouds import estimate_normals, remove_outliers, tree, voxel_downsample
from ivggt_jax.evaluate.icp import register
from ivggt_jax.evaluate.reconstruction import ReconstructionEvaluation, compare_clouds
from ivggt_jax.transforms import Similarity

CAM_FROM_LIDAR = np.array(
    [
        [-0.012577, -0.999915, -0.003397, -0.03],
        [0.345639, -0.001159, -0.938367, -0.04],
        [0.938283, -0.012976, 0.345625, -0.03],
    ]
)
"""Calibration of the published rig: the laser's axes are x forward and z up, the camera's z forward and y down."""

VOXEL = 0.015
PUBLISHED_SCALE_FACTOR = 0.75
"""The factor for most scenes; for the classroom and the dormitory the published code requires 1.0, set by hand."""


def evaluate_long3d(
    prediction: np.ndarray,
    truth: np.ndarray,
    scale_factor: float = PUBLISHED_SCALE_FACTOR,
    thresholds: tuple[float, ...] = (0.05,),
) -> ReconstructionEvaluation:
    """Compare a predicted cloud [N, 3], in the first camera's frame, with a scan [M, 3] in metres, in the laser's frame.

    As published: the prediction is rotated to the laser's axes. Both clouds are averaged in cubes of 1.5 cm and cleaned of points
    far from their 100 neighbours, and the larger is thinned at random (seed 42) to the size of the smaller. Their centroids are
    aligned, and the prediction is scaled by `scale_factor` times the ratio of the root mean square distances from them.
    Point-to-plane ICP within 5 cm refines the motion, without scale. `scale_factor` 1.0 for every scene is this project's fixed
    alignment, in which nothing is chosen by looking at the result.

    Raises ValueError when a cloud is empty, or empty after cleaning.
    """
    rotation, offset = CAM_FROM_LIDAR[:, :3].T, CAM_FROM_LIDAR[:, 3]
    lidar_from_cam = Similarity(1.0, rotation, -rotation @ offset)
    prediction, truth = (_cleaned(points) for points in (lidar_from_cam.points(prediction), truth))
    random = np.random.default_rng(42)
    count = min(len(prediction), len(truth))
    prediction, truth = (_thinned(points, count, random) for points in (prediction, truth))
    start = align_centroids(prediction, truth, scale_factor)
    normals = estimate_normals(truth, neighbours=30, radius=0.03)
    found = register(start.points(prediction), tree(truth), 0.05, normals, iterations=200)
    transform = found.transform.after(start)
    errors = compare_clouds(transform.points(prediction), truth, thresholds)
    name = f"centroids, {scale_factor:g} × spread, ICP to planes"
    return ReconstructionEvaluation(name, transform.after(lidar_from_cam), count, count, errors)


def align_centroids(prediction: np.ndarray, truth: np.ndarray, scale_factor: float) -> Similarity:
    """Align the centroids of clouds [N, 3] and [M, 3], and scale the first to `scale_factor` times the truth's spread.

    The spread is the root mean square distance from the centroid. No rotation.
    """
    spreads = [np.sqrt(np.mean(np.sum((points - points.mean(axis=0)) ** 2, axis=1))) for points in (prediction, truth)]
    scale = float(scale_factor * spreads[1] / spreads[0])
    return Similarity(scale, translation=truth.mean(axis=0) - scale * prediction.mean(axis=0))


def _cleaned(points: np.ndarray) -> np.ndarray:
    return remove_outliers(voxel_downsample(points, VOXEL))


def _thinned(points: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    return points if len(points) == count else points[random.choice(len(points), count, replace=False)]
