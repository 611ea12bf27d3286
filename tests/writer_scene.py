"""An exact scene for the tests of the writers: a camera moving inside a box, rendered by intersecting rays with it.

Everything is known in closed form: the cameras, the depth of every pixel, and where each pixel lies in the original
image. Rays are the project's: through pixel (u, v) goes ((u − W/2)/fx, (v − H/2)/fy, 1).
"""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from ivggt_jax.runs.run import moving_masked
from ivggt_jax.sources.frame import Fit, Frame
from ivggt_jax.writers import ExportOptions, Writers
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.saved_run import SavedRun
from ivggt_jax.writers.tracks import project

ALL = ExportOptions(confidence=0)
HEIGHT, WIDTH = 112, 168
WAVES = np.random.default_rng(0).normal(size=(3, 24)) * np.geomspace(2, 10, 8).repeat(3)
"""The walls' texture is a sum of eight waves for each colour; radians per unit."""
LOW, HIGH = np.array([-2.0, -1.5, -1.0]), np.array([2.0, 1.5, 5.0])
FITS = {
    "resized": Fit((336, 224), (0.5, 0.5), (0.0, 0.0)),
    "cropped": Fit((336, 400), (0.5, 0.5), (0.0, -44.0)),  # of 200 rows 44 are cut above and below
    "padded": Fit((600, 480), (0.2, 0.2), (24.0, 8.0)),
    "stretched": Fit((400, 226), (168 / 400, 112 / 226), (0.0, 0.0)),
}
"""How an original image became the model's 168×112: uneven scales, crops and padding."""


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
    image = np.clip(127 + 25 * np.sin(points @ WAVES).reshape(*points.shape[:2], 8, 3).sum(axis=2), 0, 255).astype(
        np.uint8
    )
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


def tracked(index: int, fit: Fit = FITS["resized"], **changes) -> Result:
    """Frame `index` with exact tracks of 42 points of frame 0; those outside of the image are hidden."""
    points, _ = known_pixels(result(0, fit))
    item = result(index, fit)
    pixels, _ = project(item, points)
    seen = ((pixels >= 0) & (pixels <= (WIDTH - 1, HEIGHT - 1))).all(axis=-1)
    tracks = {"tracks": pixels.astype(np.float32), "visibility": seen.astype(np.float32)}
    return dataclasses.replace(item, **tracks | changes)


def moving(index: int, **changes) -> Result:
    """The frame with tracks where a block of 30×40 pixels, 3 further on in each frame, moves."""
    item = tracked(index, **changes)
    block = np.zeros((HEIGHT, WIDTH), bool)
    block[40:70, 3 * index : 3 * index + 40] = True
    return moving_masked(item, block)


def invert(transform: np.ndarray) -> np.ndarray:
    """The inverse [3, 4] of a rigid transform [3, 4]."""
    return np.concatenate((transform[:, :3].T, -transform[:, :3].T @ transform[:, 3:]), axis=1)


def known_pixels(item: Result) -> tuple[np.ndarray, np.ndarray]:
    """World points [N, 3] in float64 and the pixels [N, 2] (integer index = centre) of the original image they are at."""
    v, u = np.mgrid[3:HEIGHT:20, 5:WIDTH:26].reshape(2, -1)
    matrix, fit = item.intrinsics, item.frame.fit
    rays = np.stack(((u - WIDTH / 2) / matrix[0, 0], (v - HEIGHT / 2) / matrix[1, 1], np.ones(u.shape)), axis=-1)
    pose = invert(item.cam_from_world)
    points = (rays * item.depth[v, u, None].astype(np.float64)) @ pose[:, :3].T + pose[:, 3]
    pixels = (np.stack((u, v), axis=-1) + 0.5 - fit.offset) / fit.scale - 0.5
    return points, pixels


def saved(out: Path, items, options: ExportOptions = ALL) -> SavedRun:
    """Results as the frames that a run saved in a folder."""
    writers = Writers(["npz"], out, options)
    for item in items:
        writers.write(item)
    writers.close()
    return SavedRun(out)


def originals(folder: Path, items) -> Path:
    """Files of the size that the original images have."""
    folder.mkdir()
    for item in items:
        Image.new("RGB", item.frame.fit.original_size).save(folder / item.frame.name)
    return folder
