"""Which pixels of a frame become points: one rule for all clouds."""

import numpy as np
from scipy import ndimage

from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, required


def point_mask(result: Result, options: ExportOptions) -> np.ndarray:
    """Pixels bool [H, W] that become points.

    They are finite and not masked, and their confidence is at least the `options.confidence` percentile of such pixels in this
    frame. (A percentile instead of a threshold, because the scale of confidences varies between scenes. Ties pass, so that a
    frame with equal confidences keeps all pixels.) With sky "drop", `sky_mask` is also left out. Raises ValueError when the
    result has no points.
    """
    valid = np.isfinite(required(result.points, "a point cloud", "depth or points")).all(axis=-1)
    if result.frame.mask is not None:
        valid &= result.frame.mask
    confidence = result.points_confidence
    if confidence is not None:
        valid &= np.isfinite(confidence)
        if valid.any():
            valid &= confidence >= np.percentile(confidence[valid], options.confidence)
    if options.sky == "drop":
        valid &= ~sky_mask(result.frame.image, confidence, result.frame.mask)
    return valid


def sky_mask(image: np.ndarray, confidence: np.ndarray | None, mask: np.ndarray | None = None) -> np.ndarray:
    """Pixels bool [H, W] that look like sky, by a simple rule.

    A pixel is sky if it is bright (its largest channel is at least 100 of 255), blue or grey (blue is at most 8 below the largest
    channel), less confident than the frame's median if confidences are given, and connected by such pixels to the top edge: the
    first row that is not wholly masked, as the rows above a picture padded to a square are. White walls that reach the top edge
    are mistaken for sky; user-supplied masks do better.

    image uint8 [H, W, 3]; confidence float32 [H, W] or None; mask bool [H, W], False where there is no picture, or None.
    """
    known = np.ones(image.shape[:2], bool) if mask is None else mask
    if not known.any():
        return np.zeros_like(known)
    brightest = image.max(axis=-1).astype(np.int16)
    candidate = known & (brightest >= 100) & (image[..., 2] >= brightest - 8)
    if confidence is not None:
        candidate &= confidence < np.median(confidence[known])
    regions, _ = ndimage.label(candidate)
    return candidate & np.isin(regions, regions[known.any(axis=1).argmax()])
