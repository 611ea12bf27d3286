"""Corners of an image, with depth, that can be found again from another viewpoint and in different light.

Lighting is removed first: log brightness, minus its local mean, over its local spread. At corners (Harris and Stephens, 1988) a
patch is kept, blurred and coarsely sampled as in Brown, Szeliski and Winder, "Multi-image matching using multi-scale oriented
patches", CVPR 2005, but of one scale and upright. Large images are averaged down first, so that a place costs the same whatever
their size.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter

AREA = 84 * 112
"""Images are averaged down by the largest whole factor that leaves at least this many pixels."""
MOST = 300
"""Most corners of an image."""
SIDE, SPACING = 8, 2
"""Samples along a patch's side, and their spacing in pixels."""
EDGE = SIDE * SPACING // 2 + 1
"""Width in pixels of the border in which no corner is taken."""
SURROUNDINGS, BLUR, WINDOW = 6.0, 1.0, 2.0
"""Standard deviations, in pixels, of three Gaussians: local mean and spread of brightness, blur of the patches, window of the
corner measure."""
APART = 5
"""Side in pixels of the square in which a corner must be the strongest pixel."""


@dataclass(frozen=True, eq=False)
class Features:
    """`MOST` corners of one image, padded with entries of depth 0."""

    pixels: np.ndarray
    """float32 [MOST,2]: (u, v) relative to the image centre, in image widths."""
    depth: np.ndarray
    """float32 [MOST]"""
    patches: np.ndarray
    """int8 [MOST,SIDE²]: patches of mean zero, scaled to a largest entry of ±127."""


def find_features(image: np.ndarray, depth: np.ndarray, mask: np.ndarray | None = None) -> Features:
    """The strongest corners of an image uint8 [H,W,3] among pixels with known depth [H,W]. There may be none.

    No patch reaches a pixel where `mask` bool [H,W] is False: the edge of what covers the same part of every image looks the same
    everywhere.
    """
    height, width = image.shape[:2]
    factor = max(1, int((height * width / AREA) ** 0.5))
    flat = _without_light(_averaged(image.astype(np.float32).mean(axis=-1), factor))
    blurred = gaussian_filter(flat, BLUR)
    covered = np.zeros_like(flat) if mask is None else _averaged((~mask).astype(np.float32), factor)
    rows, columns = _corners(blurred, maximum_filter(covered, 2 * EDGE + 1) > 0)
    middle = (factor - 1) / 2
    v, u = factor * rows + middle, factor * columns + middle
    nearest = depth[np.round(v).astype(int), np.round(u).astype(int)]
    known = np.flatnonzero(np.isfinite(nearest) & (nearest > 0))[:MOST]
    rows, columns, u, v = rows[known], columns[known], u[known], v[known]
    offsets = (np.arange(SIDE) - (SIDE - 1) / 2) * SPACING
    down, across = (x.ravel() for x in np.meshgrid(offsets, offsets, indexing="ij"))
    patches = map_coordinates(blurred, [rows[:, None] + down, columns[:, None] + across], order=1)
    patches -= patches.mean(axis=1, keepdims=True)
    patches *= 127 / np.maximum(np.abs(patches).max(axis=1, keepdims=True), 1e-6)
    found = Features(np.zeros((MOST, 2), np.float32), np.zeros(MOST, np.float32), np.zeros((MOST, SIDE**2), np.int8))
    count = len(known)
    found.pixels[:count] = np.stack((u - width / 2, v - height / 2), axis=-1) / width
    found.depth[:count], found.patches[:count] = nearest[known], np.round(patches)
    return found


def _averaged(image: np.ndarray, factor: int) -> np.ndarray:
    """Means of factor × factor pixels; leftover rows and columns at the bottom and right are dropped."""
    rows, columns = (size // factor for size in image.shape)
    cells = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return np.asarray(cells.mean(axis=(1, 3)))


def _without_light(brightness: np.ndarray) -> np.ndarray:
    """Contrast of brightness [h,w], 0 to 255, normalised by the local mean and spread."""
    logarithm = np.log(brightness / 255 + 0.03)
    contrast = logarithm - gaussian_filter(logarithm, SURROUNDINGS)
    return np.asarray(contrast / (np.sqrt(gaussian_filter(contrast**2, SURROUNDINGS)) + 0.05))


def _corners(image: np.ndarray, excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the corners, none of them at an excluded pixel, strongest first."""
    down, across = np.gradient(image)
    yy, xx, xy = (gaussian_filter(product, WINDOW) for product in (down**2, across**2, down * across))
    strength = (xx * yy - xy**2) / (xx + yy + 1e-6)
    strength[excluded] = 0
    strength[:EDGE] = strength[-EDGE:] = strength[:, :EDGE] = strength[:, -EDGE:] = 0
    rows, columns = np.nonzero((strength == maximum_filter(strength, APART)) & (strength > 1e-6))
    order = np.argsort(-strength[rows, columns], kind="stable")
    return rows[order], columns[order]
