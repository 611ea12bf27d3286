"""Sub-pixel matching of two images: the remaining shift of patches whose warp is known.

Lucas and Kanade's method (IJCAI 1981) with the template's gradients, which are computed once (Baker and Matthews, IJCV 2004), as
a maximum a posteriori estimate: grey values have noise `NOISE`, shifts the prior `PRIOR`. So a patch without texture stays where
geometry puts it instead of wandering.
"""

import numpy as np
from scipy import ndimage

PATCH = 13
"""Side of a patch in pixels."""
NOISE = 3.0
"""Standard deviation of grey values (of 255)."""
PRIOR = 3.0
"""Standard deviation of shifts in pixels."""
FURTHEST = 2 * PRIOR
"""A longer shift counts as a mismatch."""
ITERATIONS = 10
STILL = 0.01
"""A patch that moves by less, in pixels, has converged."""


def refine(
    template: np.ndarray, slope: np.ndarray, grey: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shifts float64 [N, 2] in pixels at which an image agrees with templates, and bool [N]: which were found.

    template [N, K] are grey values of N patches, slope [N, K, 2] their derivatives along u and v. places [N, K, 2], as (u, v),
    are their pixels' positions in the image grey [H, W] according to geometry; positions that are not finite do not count. A
    brightness difference shared by all patches, from exposure, has no effect. (One for each patch would be confused with a
    shift.)
    """
    shift = np.zeros((len(template), 2))
    known = np.isfinite(places).all(axis=-1)
    if not known.any():
        return shift, np.zeros(len(template), bool)
    places, slope = np.where(known[..., None], places, 0), slope * known[..., None]
    exposure = np.median((_sample(grey, places) - template)[known])
    precision = np.einsum("nki,nkj->nij", slope, slope) / NOISE**2 + np.eye(2) / PRIOR**2
    moving = np.arange(len(template))
    for _ in range(ITERATIONS):
        difference = _sample(grey, places[moving] + shift[moving, None]) - template[moving] - exposure
        pull = np.einsum("nki,nk->ni", slope[moving], difference) / NOISE**2 + shift[moving] / PRIOR**2
        step = np.linalg.solve(precision[moving], pull[..., None])[..., 0]
        shift[moving] -= step
        moving = moving[np.hypot(*step.T) > STILL]
    found = np.hypot(*shift.T) <= FURTHEST
    found[moving] = False
    return shift, found


def _sample(grey: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Grey values [...] at pixels [..., 2], bilinear."""
    return ndimage.map_coordinates(grey, np.moveaxis(pixels, -1, 0)[::-1], order=1, mode="nearest")
