"""Sharpness of depth maps: how well their occluding contours agree with the true ones (Depth Pro, arXiv 2410.02073)."""

import numpy as np

RATIOS = np.linspace(1.05, 1.25, 10)
"""Ratios of the depths of two neighbouring pixels from which one occludes the other."""


def boundary_f1(prediction: np.ndarray, truth: np.ndarray) -> float:
    """F1 of the contours of a depth map [H,W], 1 if all are in place; a mean over `RATIOS` in which larger ones weigh more.

    A contour runs between two neighbours, along rows or columns, and its side counts. It must be in place to the pixel. Contours
    of all four directions are counted together; Depth Pro averages precision and recall over the directions, so its numbers
    cannot be compared with these. Ratios at which neither map has a contour are left out. NaN if the truth has none; pixels of
    unknown depth (0) have none. 0 for a prediction that is not finite.
    """
    if not np.isfinite(prediction).all():
        return 0.0
    known = truth > 0
    depths = [np.log(np.where(known, np.maximum(depth, 1e-6), 1.0)) for depth in (prediction, truth)]
    steps = np.log(RATIOS)[:, None]
    found, true, right = np.zeros((3, len(RATIOS)))
    for axis in (0, 1):
        last = known.shape[axis] - 1
        both = known.take(range(last), axis) & known.take(range(1, last + 1), axis)
        ours, theirs = (np.diff(depth, axis=axis)[both] for depth in depths)
        for sign in (1, -1):
            is_found, is_true = sign * ours > steps, sign * theirs > steps
            found += is_found.sum(axis=1)
            true += is_true.sum(axis=1)
            right += (is_found & is_true).sum(axis=1)
    if not true.any():
        return np.nan
    precision, recall = (right / np.maximum(count, 1) for count in (found, true))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    return float(np.average(f1, weights=RATIOS * (found + true > 0)))
