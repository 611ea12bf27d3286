"""The simulated sensor of `evaluate stream`, and errors in metres; seed 0, depth of 1 to 8 metres."""

from dataclasses import dataclass

import numpy as np
import pytest

from ivggt_jax.evaluate.depth_sensor import SENSOR, joined, measured_depth, metric_errors, metric_measures
from ivggt_jax.evaluate.stream import Stream
from ivggt_jax.mapping.options import SubmapOptions

TRUTH = np.random.default_rng(0).uniform(1, 8, (6, 40, 60)).astype(np.float32)


@dataclass
class Named:
    name: str


def test_the_sensor_is_as_it_says() -> None:
    found = measured_depth(Named("loop-1"), 10, TRUTH, 2)  # type: ignore[arg-type]
    seen = found > 0
    assert seen.any(axis=(1, 2)).tolist() == [True, False] * 3
    assert seen[::2].sum() / (TRUTH[::2] < 4).sum() == pytest.approx(0.7, abs=0.03)
    error = found[seen] / TRUTH[seen] - 1
    assert np.std(error) == pytest.approx(0.02, abs=0.002) and found.max() <= SENSOR.far
    np.testing.assert_array_equal(found, measured_depth(Named("loop-1"), 10, TRUTH, 2))  # type: ignore[arg-type]
    assert (found != measured_depth(Named("loop-2"), 10, TRUTH, 2)).any()  # type: ignore[arg-type]


def test_errors_are_in_metres_and_told_apart() -> None:
    """All depth 10 % too far, exact where it was measured, in the first three of six frames."""
    measured = np.where((TRUTH < 4) & (np.arange(60) < 30), TRUTH, 0) * (np.arange(6) < 3)[:, None, None]
    depth = np.where(measured > 0, measured, 1.1 * TRUTH)
    errors = joined([metric_errors(part, true, seen) for part, true, seen in zip(
        np.split(depth, 2), np.split(TRUTH, 2), np.split(measured, 2), strict=True)], 5)  # fmt: skip
    assert errors.measured.tolist() == [True] * 3 + [False] * 2
    np.testing.assert_allclose(errors.holes, [0.1] * 3 + [np.nan] * 2, rtol=1e-5)
    np.testing.assert_allclose(errors.near_holes[:3], 0.1, rtol=1e-5)
    np.testing.assert_allclose(errors.near[3:], 0.1, rtol=1e-5)
    np.testing.assert_allclose(errors.near[:3], 0.05, atol=0.01)
    path = np.tile(np.eye(3, 4), (5, 1, 1))
    path[:, :, 3] = np.random.default_rng(1).normal(size=(5, 3))
    longer = path.copy()
    longer[:, :, 3] = longer[:, :, 3] / 0.98
    found = metric_measures(errors, longer, path)
    assert found["scale_error_percent"] == pytest.approx(2) == found["local_scale_error_percent"]
    assert found["hole_depth_error"] == pytest.approx(0.1) == found["unmeasured_depth_error"]
    assert found["metric_position_error_metres"] > 0.01
    longer[2] = np.nan
    assert metric_measures(errors, longer, path)["metric_position_error_metres"] == np.inf


def test_it_needs_submaps() -> None:
    with pytest.raises(ValueError, match="needs submaps"):
        Stream(depth_sensor=1, mapping=SubmapOptions(submaps="off"))
    with pytest.raises(ValueError, match="needs submaps"):
        Stream(depth_sensor=0)
