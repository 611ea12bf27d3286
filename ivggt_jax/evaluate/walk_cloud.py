"""Distance of a walk's fused cloud from the scene: the effect of drift on the map that a user sees."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from ivggt_jax import geometry
from ivggt_jax.evaluate.clouds import nearest, tree, voxel_downsample
from ivggt_jax.trajectories.alignment import align_trajectory

STRIDE = 2
"""Every n-th pixel of a frame is used, along both axes."""
VOXEL = 0.05
"""Side in metres of the cubes in which points of either cloud are averaged."""


@dataclass(frozen=True, eq=False)
class WalkCloud:
    """Points of some frames of a walk, each in its own camera."""

    frames: np.ndarray
    """int64 [F]: frame numbers."""
    found: np.ndarray
    """float32 [F,N,3]: as predicted, in the unit of the predicted world."""
    true: np.ndarray
    """float32 [F,N,3] in metres; depth 0 where unknown."""

    def distance(self, found: np.ndarray, scales: np.ndarray, truth: np.ndarray) -> float:
        """Chamfer distance in metres: the mean of the mean distances from either cloud to the other.

        Cameras [S,3,4] are world_from_cam; `scales` [S] multiply the predictions. The predicted world is aligned to the true one
        by the Sim3 of the paths. Infinite if a camera is not finite.
        """
        if not np.isfinite(found).all():
            return np.inf
        truth_from_found = align_trajectory(found, truth, "sim3")
        known = self.true[..., 2] > 0
        points = _in_world(self.found * scales[self.frames, None, None], found[self.frames])[known]
        clouds = [truth_from_found.points(points), _in_world(self.true, truth[self.frames])[known]]
        one, other = (voxel_downsample(cloud, VOXEL) for cloud in clouds)
        return float(np.mean([nearest(one, tree(other))[0].mean(), nearest(other, tree(one))[0].mean()]))


def camera_points(depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points float32 [N,3] of a depth map [H,W] in its camera, with intrinsics [3,3]; see `STRIDE`."""
    points = geometry.unproject(jnp.asarray(depth), jnp.eye(3, 4), jnp.asarray(intrinsics))
    return np.asarray(points[::STRIDE, ::STRIDE], np.float32).reshape(-1, 3)


def _in_world(points: np.ndarray, world_from_cam: np.ndarray) -> np.ndarray:
    """Points [F,N,3] of cameras [F,3,4], in the world."""
    return points.astype(np.float64) @ world_from_cam[:, :, :3].swapaxes(1, 2) + world_from_cam[:, None, :, 3]
