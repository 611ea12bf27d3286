"""Corners of an image that can be found again from another side and in another light, with their depth.

The image's light is taken out first: the logarithm of its brightness, less its mean around and over its spread around. At
corners (Harris and Stephens, 1988) a patch of it is kept, blurred and coarsely sampled as in Brown, Szeliski and Winder,
"Multi-image matching using multi-scale oriented patches", CVPR 2005, of one scale and upright. Large images are
averaged down first, so that a place costs the same whatever their size.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter

AREA = 84 * 112
"""Pixels below which an image is not averaged down any further than to a quarter more on either side."""
MOST = 300
"""Corners of an image."""
SIDE, SPACING = 8, 2
"""Samples along a patch's side, and pixels from one to the next."""
EDGE = SIDE * SPACING // 2 + 1
"""Pixels along the border without corners."""
SURROUNDINGS, BLUR, WINDOW = 6.0, 1.0, 2.0
"""Standard deviations in pixels: of what light is measured over, of the patches, of the corners."""
APART = 5
"""Side of the square, in pixels, of which a corner is the strongest pixel."""


@dataclass(frozen=True, eq=False)
class Features:
    """`MOST` corners of one image; those that it does not have have depth 0."""

    pixels: np.ndarray
    """float32 [MOST,2]: (u, v) from the image's middle, as shares of its width."""
    depth: np.ndarray
    """float32 [MOST]"""
    patches: np.ndarray
    """int8 [MOST,SIDE²]: without mean, of any length."""


def find_features(image: np.ndarray, depth: np.ndarray) -> Features:
    """The strongest corners of an image uint8 [H,W,3] where depth [H,W] is known. An image may have none."""
    height, width = image.shape[:2]
    factor = max(1, int((height * width / AREA) ** 0.5))
    flat = _without_light(_averaged(image.astype(np.float32).mean(axis=-1), factor))
    blurred = gaussian_filter(flat, BLUR)
    rows, columns = _corners(blurred)
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
    """Means of factor × factor pixels; what is left over at the right and the bottom is cut off."""
    rows, columns = (size // factor for size in image.shape)
    cells = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return np.asarray(cells.mean(axis=(1, 3)))


def _without_light(brightness: np.ndarray) -> np.ndarray:
    """Contrast of brightness [h,w], 0 to 255, with that around it."""
    logarithm = np.log(brightness / 255 + 0.03)
    contrast = logarithm - gaussian_filter(logarithm, SURROUNDINGS)
    return np.asarray(contrast / (np.sqrt(gaussian_filter(contrast**2, SURROUNDINGS)) + 0.05))


def _corners(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the corners, the strongest first."""
    down, across = np.gradient(image)
    yy, xx, xy = (gaussian_filter(product, WINDOW) for product in (down**2, across**2, down * across))
    strength = (xx * yy - xy**2) / (xx + yy + 1e-6)
    strength[:EDGE] = strength[-EDGE:] = strength[:, :EDGE] = strength[:, -EDGE:] = 0
    rows, columns = np.nonzero((strength == maximum_filter(strength, APART)) & (strength > 1e-6))
    order = np.argsort(-strength[rows, columns], kind="stable")
    return rows[order], columns[order]
