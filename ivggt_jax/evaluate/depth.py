"""Errors of predicted depth over a sequence, after a given alignment, in the memory of one frame.

A sequence is given as pairs: an object that can be iterated more than once and yields (prediction, truth), two [H, W] arrays, for
every frame. A list will do. An object whose `__iter__` reads files keeps memory constant for any length, but reads the sequence
once per pass of the alignment, and once more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ivggt_jax.evaluate.depth_alignment import Alignment, Pixels, align_depth

Pairs = Iterable[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class DepthProtocol:
    """Which pixels count, and how the prediction is limited before it is compared."""

    max_depth: float = np.inf
    """Pixels count where 0 < truth < max_depth."""
    clip: float = np.inf
    """The aligned prediction is clipped to at most this."""


PROTOCOLS = {
    "sintel": DepthProtocol(max_depth=70.0, clip=70.0),
    "bonn": DepthProtocol(max_depth=70.0),
    "kitti": DepthProtocol(),
}
"""The published protocols; depths in metres."""


@dataclass(frozen=True)
class DepthErrors:
    """Errors over a number of pixels."""

    pixels: int
    abs_rel: float
    """mean |p − g| / g"""
    sq_rel: float
    """mean (p − g)² / g"""
    rmse: float
    log_rmse: float
    """root mean square of ln p − ln g, with p at least 1e-5"""
    delta_1: float
    """share of pixels with max(p/g, g/p) < 1.25"""
    delta_2: float
    """the same with 1.25²"""
    delta_3: float
    """the same with 1.25³"""


@dataclass(frozen=True)
class DepthEvaluation:
    """Errors of a sequence, in total and frame by frame, after aligned = scale · prediction + shift."""

    alignment: Alignment
    scale: float
    shift: float
    errors: DepthErrors
    frames: tuple[DepthErrors, ...]


def evaluate_depth(
    pairs: Pairs, alignment: Alignment = "scale", protocol: DepthProtocol = PROTOCOLS["kitti"]
) -> DepthEvaluation:
    """Align a sequence of predicted depth maps to the true ones and measure the errors over all valid pixels.

    Raises ValueError for differing shapes, predictions that are not finite where there is truth, an unknown alignment, or a
    sequence without a valid pixel.
    """
    scale, shift = align_depth(lambda: _valid_pixels(pairs, protocol), alignment)
    total, frames = np.zeros(8), []
    for prediction, truth in _valid_pixels(pairs, protocol):
        sums = _error_sums(np.minimum(scale * prediction + shift, protocol.clip), truth)
        total += sums
        frames.append(_errors(sums))
    return DepthEvaluation(alignment, scale, shift, _errors(total), tuple(frames))


def error_map(prediction: np.ndarray, truth: np.ndarray, protocol: DepthProtocol = PROTOCOLS["kitti"]) -> np.ndarray:
    """Relative errors |p − g| / g of an aligned depth map, float64 [H, W]; NaN where there is no truth."""
    valid = (truth > 0) & (truth < protocol.max_depth)
    error = np.full(truth.shape, np.nan)
    error[valid] = np.abs(np.minimum(prediction[valid], protocol.clip) - truth[valid]) / truth[valid]
    return error


def _valid_pixels(pairs: Pairs, protocol: DepthProtocol) -> Pixels:
    """Predicted and true depth, float64 [N], of each frame's valid pixels."""
    found = False
    for index, (prediction, truth) in enumerate(pairs):
        if prediction.shape != truth.shape:
            raise ValueError(f"frame {index}: prediction {prediction.shape} and truth {truth.shape} differ in shape")
        valid = (truth > 0) & (truth < protocol.max_depth)
        chosen = prediction[valid].astype(np.float64)
        if not np.isfinite(chosen).all():
            raise ValueError(f"frame {index}: the predicted depth is not finite at a pixel whose true depth is known")
        found = found or chosen.size > 0
        yield chosen, truth[valid].astype(np.float64)
    if not found:
        raise ValueError("no pixel of the sequence has a valid true depth")


def _error_sums(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The pixel count and the seven sums that errors are computed from; they add up over frames."""
    difference = prediction - truth
    positive = np.maximum(prediction, 1e-5)
    ratio = np.maximum(positive / truth, truth / positive)
    return np.array(
        [
            truth.size,
            np.sum(np.abs(difference) / truth),
            np.sum(difference**2 / truth),
            np.sum(difference**2),
            np.sum(np.log(positive / truth) ** 2),
            *(np.sum(ratio < 1.25**power) for power in (1, 2, 3)),
        ]
    )


def _errors(sums: np.ndarray) -> DepthErrors:
    """Errors from `_error_sums`; NaN if no pixel counted."""
    count = int(sums[0])
    abs_rel, sq_rel, square, log_square, *deltas = (float(value / count) if count else np.nan for value in sums[1:])
    return DepthErrors(count, abs_rel, sq_rel, float(np.sqrt(square)), float(np.sqrt(log_square)), *deltas)
