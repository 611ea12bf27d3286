"""An exact scene for the tests of the writers: a camera moving inside a box, rendered by intersecting rays with it.

Everything is known in closed form: the cameras, the depth of every pixel, and where each pixel lies in the original
image. Rays are the project's: through pixel (u, v) goes ((u − W/2)/fx, (v − H/2)/fy, 1).
"""

import numpy as np
from scipy.spatial.transform import Rotation

from ivggt_jax.sources.frame import Fit, Frame
from ivggt_jax.writers.result import Result

HEIGHT, WIDTH = 56, 84
LOW, HIGH = np.array([-2.0, -1.5, -1.0]), np.array([2.0, 1.5, 5.0])
FITS = {
    "resized": Fit((168, 112), (0.5, 0.5), (0.0, 0.0)),
    "cropped": Fit((168, 200), (0.5, 0.5), (0.0, -22.0)),  # 200·0.5 = 100 rows, of which 22 are cut above and below
    "padded": Fit((300, 240), (0.2, 0.2), (12.0, 4.0)),
    "stretched": Fit((200, 113), (84 / 200, 56 / 113), (0.0, 0.0)),
}
"""How an original image became the model's 84×56: uneven scales, crops and padding."""


def camera(index: int) -> np.ndarray:
    """world_from_cam [3, 4] of frame `index`: on a path to the right and forward, turning on two axes."""
    rotation = Rotation.from_euler("yxz", (0.03 * index, -0.02 * index, 0.01 * index)).as_matrix()
    return np.concatenate((rotation, np.array([[0.05 * index], [-0.02 * index], [0.04 * index]])), axis=1)


def intrinsics(fit: Fit) -> np.ndarray:
    """Model intrinsics [3, 3], of square pixels in the original image, principal point in the model image's middle."""
    focal = 0.9 * max(fit.original_size)
    return np.array([[focal * fit.scale[0], 0, WIDTH / 2], [0, focal * fit.scale[1], HEIGHT / 2], [0, 0, 1]])


def result(index: int, fit: Fit = FITS["resized"], **changes) -> Result:
    """Frame `index` of the scene with exact float64-rendered depth; `changes` replace fields of the Result."""
    pose, matrix = camera(index), intrinsics(fit)
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    rays = np.stack(((u - WIDTH / 2) / matrix[0, 0], (v - HEIGHT / 2) / matrix[1, 1], np.ones(u.shape)), axis=-1)
    directions = rays @ pose[:, :3].T
    # Per axis, the way to the wall that the ray is heading for; the nearest wall is hit.
    way = np.where(directions > 0, HIGH - pose[:, 3], pose[:, 3] - LOW)
    with np.errstate(divide="ignore"):
        depth = (way / np.abs(directions)).min(axis=-1)
    points = pose[:, 3] + depth[..., None] * directions
    image = (127 + 120 * np.sin(points * (3.0, 5.0, 4.0))).astype(np.uint8)
    frame = Frame(image=image, index=index, timestamp=None, name=f"{index:06d}.png", fit=fit)
    fields = {
        "frame": frame,
        "cam_from_world": invert(pose),
        "intrinsics": matrix,
        "depth": depth.astype(np.float32),
        "depth_confidence": np.ones(depth.shape, np.float32),
        "points": points.astype(np.float32),
        "points_confidence": (1 + np.cos(u / 9.0) ** 2).astype(np.float32),
    }
    return Result(**fields | changes)


def invert(transform: np.ndarray) -> np.ndarray:
    """The inverse [3, 4] of a rigid transform [3, 4]."""
    return np.concatenate((transform[:, :3].T, -transform[:, :3].T @ transform[:, 3:]), axis=1)


def known_pixels(item: Result) -> tuple[np.ndarray, np.ndarray]:
    """World points [N, 3] in float64 and the pixels [N, 2] (integer index = centre) of the original image they are at."""
    v, u = np.mgrid[3:HEIGHT:10, 5:WIDTH:13].reshape(2, -1)
    matrix, fit = item.intrinsics, item.frame.fit
    rays = np.stack(((u - WIDTH / 2) / matrix[0, 0], (v - HEIGHT / 2) / matrix[1, 1], np.ones(u.shape)), axis=-1)
    pose = invert(item.cam_from_world)
    points = (rays * item.depth[v, u, None].astype(np.float64)) @ pose[:, :3].T + pose[:, 3]
    pixels = (np.stack((u, v), axis=-1) + 0.5 - fit.offset) / fit.scale - 0.5
    return points, pixels
