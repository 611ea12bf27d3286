"""A picture of what a student sees: image, true depth, predicted depth and its error, frame by frame."""

import numpy as np

from ivggt_jax.evaluate.depth import error_map, evaluate_depth
from ivggt_jax.writers.video import colour_depth, inverse_depth_range
from train.evaluate import Clip

COLUMNS = 4
WHITE_ERROR = 0.5
"""Relative error that is drawn white; none is black, and a pixel without true depth is blue."""
BLUE = (0, 0, 96)


def depth_picture(clip: Clip) -> np.ndarray:
    """Picture uint8 [4·H, up to 4·W, 3] of evenly spaced frames, the predicted depth scaled to the true one.

    ValueError for a clip without true depth, or predictions that are not finite.
    """
    truth = np.where(clip["valid"], clip["depth"], 0)
    pairs = list(zip(clip["predicted_depth"], truth, strict=True))
    predicted = evaluate_depth(pairs).scale * clip["predicted_depth"]
    colours = inverse_depth_range(truth, None)
    frames = np.unique(np.linspace(0, len(truth) - 1, COLUMNS).round().astype(int))
    columns = [
        (clip["images"][i], colour_depth(truth[i], colours), colour_depth(predicted[i], colours), _draw_error(*pair))
        for i, pair in ((i, (predicted[i], truth[i])) for i in frames)
    ]
    return np.concatenate([np.concatenate(column) for column in columns], axis=1)


def _draw_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    error = error_map(predicted, truth)[..., None]
    grey = 255 * np.minimum(np.nan_to_num(error) / WHITE_ERROR, 1)
    return np.where(np.isnan(error), BLUE, grey).astype(np.uint8)
