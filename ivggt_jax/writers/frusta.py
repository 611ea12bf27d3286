"""Cameras as frusta: which of a run's frames to draw, how large, and seen from where."""

import numpy as np

from ivggt_jax.writers.result import Result
from ivggt_jax.writers.saved_run import SavedRun

MOST = 500
"""Most cameras drawn; of longer runs, evenly spaced ones."""


def drawn_cameras(run: SavedRun, most: int = MOST) -> list[Result]:
    """The cameras of at most `most` frames, including the first and the last."""
    count = min(len(run), most)
    return [run.camera(int(position)) for position in np.rint(np.linspace(0, len(run) - 1, count))]


def frustum_depth(points: np.ndarray) -> float:
    """A length that is well visible among points [N, 3]: a fortieth of the diagonal of the box around their middle 90 %."""
    low, high = np.percentile(points, [5, 95], axis=0)
    return float(np.linalg.norm(high - low)) / 40 or 0.1


def upright(world_from_cam: np.ndarray) -> np.ndarray:
    """The axes right, down and forward in the world, the rows of [3, 3], by which a page shows cameras [N, 3, 4] upright.

    Down is the mean of the cameras' own, because the first one may be tilted and an aligned world has any axes.
    """
    _, own, ahead = world_from_cam[0, :, :3].T
    down = world_from_cam[:, :, 1].mean(0)
    down = down / length if (length := np.linalg.norm(down)) > 1e-3 else own
    if abs(ahead @ down) > 0.99:  # the first camera looks straight down or up
        ahead = -own * (ahead @ down)
    forward = ahead - down * (ahead @ down)
    forward /= np.linalg.norm(forward)
    return np.stack((np.cross(down, forward), down, forward))


def upright_along_axes(world_from_cam: np.ndarray) -> np.ndarray:
    """Right, down and forward as rows of ±1 and 0, [3, 3], for cameras [N, 3, 4]: down is the axis closest to that of `upright`.

    Right is x, or y if x is vertical. A world with y down gives the identity, one with z up ((1, 0, 0), (0, 0, -1), (0, 1, 0)).
    """
    mean = upright(world_from_cam)[1]
    vertical = np.abs(mean).argmax()
    down, right = np.eye(3)[vertical] * np.sign(mean[vertical]), np.eye(3)[1 if vertical == 0 else 0]
    return np.stack((right, down, np.cross(right, down)))


def first_look(points: np.ndarray, first: Result, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Initial eye and target of a page, [3] each: over the first camera's shoulder, towards the middle of points [N, 3].

    `axes` are as in `upright`.
    """
    middle, here = np.median(points, axis=0), first.world_from_cam[:, 3]
    return here + np.linalg.norm(middle - here) * np.array((0.3, -0.5, -0.6)) @ axes, middle


def overview(points: np.ndarray, first: Result, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same, but from farther away and steeper above if that is among the points, as in a room seen on all sides."""
    eye, middle = first_look(points, first, axes)
    low, high = np.percentile(points, [5, 95], axis=0)
    away, enough = float(np.linalg.norm(eye - middle)), 0.9 * float(np.linalg.norm(high - low))
    if away < enough:
        direction = eye - middle - 0.4 * (away or 1.0) * axes[1]
        eye = middle + enough * direction / np.linalg.norm(direction)
    return eye, middle


def frustum_corners(result: Result, depth: float) -> np.ndarray:
    """A camera's frustum in the world, float64 [5, 3]: its position, then the image's corners at that depth.

    Corners go clockwise from the top left, at the outer edges of the corner pixels.
    """
    height, width = result.frame.image.shape[:2]
    corners = np.array(((0, 0), (width, 0), (width, height), (0, height))) - 0.5
    k, pose = result.intrinsics, result.world_from_cam
    rays = np.concatenate(((corners - k[:2, 2]) / (k[0, 0], k[1, 1]), np.ones((4, 1))), axis=1)
    return np.concatenate((pose[:, 3:].T, depth * rays @ pose[:, :3].T + pose[:, 3]))
