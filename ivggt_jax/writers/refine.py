"""Where two images agree: sub-pixel matching of patches whose warp is known, for a remaining shift.

Lucas and Kanade's method (IJCAI 1981) as a maximum a posteriori estimate: grey values are off by `NOISE`, shifts by
`PRIOR`, so that a patch without texture stays where geometry puts it instead of wandering.
"""

import numpy as np
from scipy import ndimage

PATCH = 7
"""Side of a patch in pixels."""
NOISE = 5.0
"""Standard deviation of grey values (of 255)."""
PRIOR = 1.0
"""Standard deviation of shifts in pixels."""
ITERATIONS = 3
FURTHEST = 3 * PRIOR
"""A longer shift is a mismatch."""


def refine(template: np.ndarray, grey: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shifts float64 [N, 2] in pixels that make an image agree with templates, and bool [N]: which were found.

    template [N, K] are grey values of N patches; places [N, K, 2], as (u, v), say where geometry puts their pixels in
    the image grey [H, W]; pixels with a place that is not finite do not count. A difference in brightness that all
    patches have in common, an exposure, does not matter. (One of each patch's own would look like a shift.)
    """
    known = np.isfinite(places).all(axis=-1)
    if not known.any():
        return np.zeros((len(template), 2)), np.zeros(len(template), bool)
    places = np.where(known[..., None], places, 0)
    gradients = np.gradient(grey)[::-1]
    shift = np.zeros((len(template), 2))
    for _ in range(ITERATIONS):
        coordinates = np.moveaxis(places + shift[:, None], -1, 0)[::-1]
        sampled = [ndimage.map_coordinates(image, coordinates, order=1, mode="nearest") for image in (grey, *gradients)]
        difference = sampled[0] - template
        difference = np.where(known, difference - np.median(difference[known]), 0)
        slope = np.stack(sampled[1:], axis=-1) * known[..., None]
        precision = np.einsum("nki,nkj->nij", slope, slope) / NOISE**2 + np.eye(2) / PRIOR**2
        pull = np.einsum("nki,nk->ni", slope, difference) / NOISE**2 + shift / PRIOR**2
        shift = shift - np.linalg.solve(precision, pull[..., None])[..., 0]
    return shift, np.hypot(*shift.T) <= FURTHEST
