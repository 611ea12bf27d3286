"""Brings a prediction, at the model's input size, and its truth, at the original's size, to the same pixels."""

import numpy as np
from PIL import Image

from ivggt_jax.sources.frame import Fit


def depth_pair(prediction: np.ndarray, truth: np.ndarray, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true depth, float32 [h, w] each, at the original pixels that the model saw.

    prediction [H, W] at the model's size, truth [original height, original width]. The prediction is resampled with Pillow's
    bicubic filter, the truth stays as it is. Raises ValueError when the truth does not have the original's size.
    """
    _check_size(truth, fit)
    height, width = prediction.shape
    (left, right), (box_left, box_right) = _seen(fit.original_size[0], width, fit.scale[0], fit.offset[0])
    (top, bottom), (box_top, box_bottom) = _seen(fit.original_size[1], height, fit.scale[1], fit.offset[1])
    resized = Image.fromarray(prediction.astype(np.float32)).resize(
        (right - left, bottom - top), Image.Resampling.BICUBIC, box=(box_left, box_top, box_right, box_bottom)
    )
    return np.asarray(resized), truth[top:bottom, left:right].astype(np.float32)


def true_points(
    depth: np.ndarray, intrinsics: np.ndarray, world_from_cam: np.ndarray, fit: Fit, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """True points, float64 [H, W, 3] in the world, at the pixels of the model's input, and where they are known [H, W].

    depth [original height, original width]; intrinsics [3, 3] in the original's pixels; world_from_cam [3, 4]. Each model pixel
    uses the original pixel at its centre, and that pixel's own ray, so depth is never averaged across an edge. Raises ValueError
    when the depth does not have the original's size.
    """
    _check_size(depth, fit)
    columns, rows = (
        np.floor((np.arange(count) + 0.5 - offset) / scale).astype(int)
        for count, scale, offset in zip((width, height), fit.scale, fit.offset, strict=True)
    )
    inside = ((rows >= 0) & (rows < depth.shape[0]))[:, None] & ((columns >= 0) & (columns < depth.shape[1]))
    taken = depth[np.clip(rows, 0, depth.shape[0] - 1)][:, np.clip(columns, 0, depth.shape[1] - 1)].astype(np.float64)
    known = inside & (taken > 0) & np.isfinite(taken)
    x = (columns - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (rows - intrinsics[1, 2]) / intrinsics[1, 1]
    rays = np.stack((*np.broadcast_arrays(x, y[:, None]), np.ones((height, width))), axis=-1)
    in_camera = np.where(known, taken, 0)[..., None] * rays
    return in_camera @ world_from_cam[:, :3].T + world_from_cam[:, 3], known


def centre_crop(array: np.ndarray, size: int) -> np.ndarray:
    """The middle `size` rows and columns of an array [H, W, ...]; the published reconstruction uses 224."""
    top, left = ((side - size) // 2 for side in array.shape[:2])
    if top < 0 or left < 0:
        raise ValueError(f"an array of {array.shape[0]} × {array.shape[1]} has no middle {size} × {size}")
    return array[top : top + size, left : left + size]


def _seen(size: int, side: int, scale: float, offset: float) -> tuple[tuple[int, int], tuple[float, float]]:
    """Along one axis: the original's pixels (first, last + 1) entirely inside the model's input, and their place there."""
    first = int(np.ceil(np.round(max(0.0, -offset / scale), 6)))
    last = int(np.floor(np.round(min(size, (side - offset) / scale), 6)))
    # Rounding may put an edge slightly outside the image, which Pillow rejects.
    return (first, last), (max(0.0, first * scale + offset), min(float(side), last * scale + offset))


def _check_size(array: np.ndarray, fit: Fit) -> None:
    if array.shape != fit.original_size[::-1]:
        width, height = fit.original_size
        raise ValueError(f"true depth of {array.shape} does not fit an image of {height} × {width} (height × width)")
