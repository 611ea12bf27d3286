"""A picture of a student's predictions: image, true depth, predicted depth and its error, frame by frame."""

import numpy as np

from ivggt_jax.depth_colours import colour_depth, inverse_depth_range
from ivggt_jax.evaluate.depth import error_map, evaluate_depth
from ivggt_jax.train.evaluate import Clip

COLUMNS = 4
WHITE_ERROR = 0.5
"""Relative error drawn white; zero is black, and pixels without true depth are blue."""
BLUE = (0, 0, 96)


def depth_picture(clip: Clip) -> np.ndarray:
    """Picture uint8 [4·H, up to 4·W, 3] of evenly spaced frames, with predicted depth scaled to the true depth.

    Predictions of the clip must be finite.
    """
    truth, predicted = np.where(clip["valid"], clip["depth"], 0), clip["predicted_depth"]
    if truth.any():
        predicted = evaluate_depth(list(zip(predicted, truth, strict=True))).scale * predicted
    colours = inverse_depth_range(truth, None)
    frames = np.unique(np.linspace(0, len(truth) - 1, COLUMNS).round().astype(int))
    columns = [
        (
            clip["images"][frame],
            colour_depth(truth[frame], colours),
            colour_depth(predicted[frame], colours),
            _colour_error(error_map(predicted[frame], truth[frame])[..., None]),
        )
        for frame in frames
    ]
    return np.concatenate([np.concatenate(column) for column in columns], axis=1)


def _colour_error(error: np.ndarray) -> np.ndarray:
    """Relative errors [H,W,1] as colours uint8 [H,W,3]."""
    grey = 255 * np.minimum(np.nan_to_num(error) / WHITE_ERROR, 1)
    return np.where(np.isnan(error), BLUE, grey).astype(np.uint8)
