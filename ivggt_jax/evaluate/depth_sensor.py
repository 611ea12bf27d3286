"""A simulated depth sensor on synthetic walks, and how metric a stream with this sensor is: nothing is aligned."""

import zlib
from dataclasses import dataclass, fields
from functools import partial

import jax
import numpy as np

from ivggt_jax.evaluate.trajectory import evaluate_trajectory
from ivggt_jax.evaluate.walks import Walk
from ivggt_jax.synthetic.sensor import Sensor, measure
from ivggt_jax.trajectories.alignment import align_trajectory

SENSOR = Sensor(noise=0.02, holes=0.3, near=0.0, far=4.0, frames=1.0, first=1.0)
"""2 % noise, holes in 30 % of the pixels, nothing beyond four metres."""
WINDOW = 100
"""Frames over which the local scale is measured."""


@dataclass(frozen=True, eq=False)
class MetricErrors:
    """AbsRel of depth in metres, frame by frame, [S] each; NaN where a frame has no such pixel."""

    whole: np.ndarray
    """All pixels."""
    near: np.ndarray
    """Pixels within the sensor's range."""
    holes: np.ndarray
    """Pixels that the sensor did not measure, in frames with other measurements."""
    near_holes: np.ndarray
    """Those of them that are nearer than the sensor's range."""
    measured: np.ndarray
    """bool: the frame came with depth."""


def measured_depth(walk: Walk, start: int, depth: np.ndarray, every: int) -> np.ndarray:
    """Simulated measurement of depth [T,H,W] from frame `start` on, float32; 0 where missing. Every n-th frame has depth."""
    key = jax.random.fold_in(jax.random.key(zlib.crc32(walk.name.encode())), start)
    found = np.array(_measure(key, depth=depth))
    found[(start + np.arange(len(depth))) % every > 0] = 0
    return found


def metric_errors(depth: np.ndarray, truth: np.ndarray, measured: np.ndarray) -> MetricErrors:
    """Errors of depth [T,H,W] in metres; `measured` [T,H,W] is the sensor's input, 0 where there was none."""
    known = truth > 0
    error = np.where(known, np.abs(depth - truth) / np.where(known, truth, 1), np.nan)
    came = np.asarray((measured > 0).any(axis=(1, 2)))
    hole = known & (measured <= 0) & came[:, None, None]
    near = truth < SENSOR.far
    return MetricErrors(
        whole=_means(error, known),
        near=_means(error, known & near),
        holes=_means(error, hole),
        near_holes=_means(error, hole & near),
        measured=came,
    )


def joined(parts: list[MetricErrors], frames: int) -> MetricErrors:
    """The parts of one stream joined, cut to `frames` frames."""
    names = (field.name for field in fields(MetricErrors))
    return MetricErrors(**{name: np.concatenate([getattr(part, name) for part in parts])[:frames] for name in names})


def metric_measures(errors: MetricErrors, found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Summary of the errors of path [S,3,4] and depth, in percent and AbsRel, a number each.

    The scale is that of the Sim3 alignment of the predicted to the true path, once for the whole path and once for every `WINDOW`
    frames, of which the mean error is given.
    """
    scales = [
        _scale(found[start : start + WINDOW], truth[start : start + WINDOW])
        for start in range(0, max(1, len(truth) - WINDOW + 1), WINDOW)
    ]
    unaligned = evaluate_trajectory(found, truth, "se3").summary()["ate"] if np.isfinite(found).all() else np.inf
    numbers = {
        "scale_error_percent": 100 * abs(_scale(found, truth) - 1),
        "local_scale_error_percent": 100 * np.mean(np.abs(np.array(scales) - 1)),
        "metric_position_error_metres": unaligned,
        "fused_depth_error": np.nanmean(errors.whole[errors.measured]),
        "near_depth_error": np.nanmean(errors.near[errors.measured]),
        "hole_depth_error": np.nanmean(errors.holes),
        "near_hole_depth_error": np.nanmean(errors.near_holes),
    }
    if not errors.measured.all():
        numbers["unmeasured_depth_error"] = np.nanmean(errors.whole[~errors.measured])
    return {name: float(value) for name, value in numbers.items()}


def _scale(found: np.ndarray, truth: np.ndarray) -> float:
    return float(align_trajectory(found, truth, "sim3").scale) if np.isfinite(found).all() else np.inf


def _means(error: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Mean [T] of the counted pixels; NaN where there are none."""
    counts = counted.sum(axis=(1, 2))
    sums = np.where(counted, error, 0).sum(axis=(1, 2))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


_measure = jax.jit(partial(measure, sensor=SENSOR))
