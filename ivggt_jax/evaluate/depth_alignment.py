"""One scale and shift for all depth maps of a sequence, from all valid pixels, without holding them in memory."""

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import numpy as np

Alignment = Literal["metric", "scale", "median", "scale&shift"]
"""Alignment of the prediction before errors are measured.

`metric`: none (no pass). `scale`: the published one, ten steps of reweighted least squares towards the scale with the least
absolute error (11 passes). `median`: the truth's median over the prediction's (2 passes). `scale&shift`: the scale and shift with
the least absolute error, by reweighted least squares until convergence (some 5 to 20 passes, more if the fit is poor). The
published code searches the last with 1,000 steps of Adam, which move neither value by more than 0.1, so its result depends on the
start; this one does not.
"""

Pixels = Iterator[tuple[np.ndarray, np.ndarray]]
"""Predicted and true depth, float64 [N] each, frame by frame."""

_SAMPLE = 1 << 20


def align_depth(pixels: Callable[[], Pixels], alignment: Alignment) -> tuple[float, float]:
    """Scale and shift from predicted to true depth: truth ≈ scale · prediction + shift.

    `pixels` is called once per pass and yields the whole sequence each time. Raises ValueError for an unknown alignment, and for
    a scale of predictions that are not positive on average.
    """
    if alignment not in get_args(Alignment):
        raise ValueError(f"alignment must be one of {', '.join(get_args(Alignment))}, not {alignment!r}")
    if alignment == "scale":
        return _reweighted_scale(pixels), 0.0
    if alignment == "median":
        return _median_scale(pixels), 0.0
    if alignment == "scale&shift":
        return _least_absolute_line(pixels)
    return 1.0, 0.0


def _reweighted_scale(pixels: Callable[[], Pixels]) -> float:
    """The published scale: from the ratio of means, ten steps of s = Σwpg / Σwp² with w = 1 / (|sp − g| + 1e-8)."""
    _, prediction_sum, truth_sum = _totals(pixels())
    scale = _ratio(truth_sum, prediction_sum)
    for _ in range(10):
        numerator = denominator = 0.0
        for prediction, truth in pixels():
            weighted = prediction / (np.abs(scale * prediction - truth) + 1e-8)
            numerator += float(weighted @ truth)
            denominator += float(weighted @ prediction)
        scale = numerator / denominator
    return max(scale, 1e-3)


def _median_scale(pixels: Callable[[], Pixels]) -> float:
    """The ratio of true to predicted median depth."""
    prediction, truth = _medians(pixels)
    return _ratio(truth, prediction)


def _ratio(truth: float, prediction: float) -> float:
    if prediction <= 0:
        raise ValueError(f"the predicted depth is {prediction} on average: no scale takes it to the true {truth}")
    return truth / prediction


def _medians(pixels: Callable[[], Pixels]) -> list[float]:
    """Medians (the lower of the two middle values) of all predicted and all true values, as float32.

    Reinterpreted as integers, float32 numbers keep their order once the sign is corrected. The first pass counts them by their
    upper 16 bits, which shows where the median is; the second counts the lower 16 bits there. Exact, in 1 MB.
    """
    upper = np.zeros((2, 1 << 16), np.int64)
    for pair in pixels():
        for counts, values in zip(upper, pair, strict=True):
            counts += np.bincount(_ordered_bits(values) >> 16, minlength=1 << 16)
    ranks = (upper.sum(axis=1) - 1) // 2
    buckets = [
        int(np.searchsorted(np.cumsum(counts), rank, side="right")) for counts, rank in zip(upper, ranks, strict=True)
    ]
    lower = np.zeros_like(upper)
    for pair in pixels():
        for counts, values, bucket in zip(lower, pair, buckets, strict=True):
            bits = _ordered_bits(values)
            counts += np.bincount(bits[bits >> 16 == bucket] & 0xFFFF, minlength=1 << 16)
    medians = []
    for above, below, bucket, rank in zip(upper, lower, buckets, ranks, strict=True):
        inside = rank - above[:bucket].sum()
        number = bucket << 16 | int(np.searchsorted(np.cumsum(below), inside, side="right"))
        number ^= 0x80000000 if number >> 31 else 0xFFFFFFFF
        medians.append(float(np.uint32(number).view(np.float32)))
    return medians


def _ordered_bits(values: np.ndarray) -> np.ndarray:
    """uint32 numbers with the same order as the values have as float32."""
    bits = values.astype(np.float32).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))


def _least_absolute_line(pixels: Callable[[], Pixels]) -> tuple[float, float]:
    """The scale s and shift t that minimise Σ|sp + t − g| over all pixels.

    The problem is convex, so any start leads to the same result. To read the sequence a few times instead of a hundred, the start
    is the solution on at most `_SAMPLE` evenly spaced pixels, which fit in memory.
    """
    count, prediction_sum, truth_sum = _totals(pixels())
    stride = -(-count // _SAMPLE)
    parts = [(prediction[::stride], truth[::stride]) for prediction, truth in pixels()]
    sample = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    centre, depth = prediction_sum / count, truth_sum / count
    start = _reweighted_line(lambda: iter([sample]), None, centre, depth)
    scale, value = _reweighted_line(pixels, start, centre, depth)
    return float(scale), float(value - scale * centre)


def _reweighted_line(pixels: Callable[[], Pixels], line: np.ndarray | None, centre: float, depth: float) -> np.ndarray:
    """Scale s and value v at the centre that minimise Σ|s(p − centre) + v − g|: iteratively reweighted least squares.

    Weights are 1/|residual|, with the residual at least a millionth of the mean depth. Without a start, the first step is plain
    least squares. It ends when a step changes neither s · centre nor v by more than 1e-6 of the mean depth, or after 100 steps.
    """
    for _ in range(100):
        normal, right = np.zeros((2, 2)), np.zeros(2)
        for prediction, truth in pixels():
            columns = np.stack((prediction - centre, np.ones_like(prediction)))
            residual = np.ones_like(truth) if line is None else line @ columns - truth
            weights = 1 / np.maximum(np.abs(residual), 1e-6 * depth)
            normal += (columns * weights) @ columns.T
            right += columns @ (weights * truth)
        # A constant prediction has no best scale; the pseudo-inverse then returns 0.
        step = np.linalg.pinv(normal, hermitian=True) @ right
        if line is not None and np.all(np.abs((step - line) * (centre, 1)) < 1e-6 * depth):
            return step
        line = step
    return step


def _totals(pixels: Pixels) -> tuple[int, float, float]:
    """Number of pixels, and the sums of their predicted and true depths."""
    count, prediction_sum, truth_sum = 0, 0.0, 0.0
    for prediction, truth in pixels:
        count += prediction.size
        prediction_sum += float(prediction.sum())
        truth_sum += float(truth.sum())
    return count, prediction_sum, truth_sum
