"""A simulated depth sensor: each of its faults alone. Four frames of 84×112 whose depth grows from 1 to 6 m."""

from dataclasses import replace

import jax
import numpy as np

from ivggt_jax.synthetic import Sensor, measure, random_sensor

DEPTH = np.broadcast_to(np.linspace(1, 6, 112, dtype=np.float32), (4, 84, 112))
PERFECT = Sensor(noise=0.0, holes=0.0, near=0.0, far=10.0, frames=1.0, first=1.0)
KEY = jax.random.key(0)


def test_a_perfect_sensor_measures_the_truth() -> None:
    np.testing.assert_array_equal(measure(KEY, PERFECT, DEPTH), DEPTH)
    assert not measure(KEY, PERFECT, 0 * DEPTH).any(), "where there is no depth, there is none to measure"


def test_noise_is_a_share_of_the_depth() -> None:
    error = np.asarray(measure(KEY, replace(PERFECT, noise=0.02), DEPTH)) / DEPTH - 1
    assert abs(error.mean()) < 5e-4 and abs(error.std() - 0.02) < 5e-4
    assert np.corrcoef(error[0].ravel(), error[1].ravel())[0, 1] < 0.03


def test_holes_are_larger_than_a_pixel_and_others_in_every_frame() -> None:
    hole = np.asarray(measure(KEY, replace(PERFECT, holes=0.3), DEPTH)) == 0
    np.testing.assert_allclose(hole.mean(axis=(1, 2)), 0.3, atol=0.01)
    assert (hole[:, 1:] == hole[:, :-1]).mean() > 0.85
    assert 0.4 < (hole[0] == hole[1]).mean() < 0.75


def test_range_and_frames() -> None:
    """Depth from 2 to 4 m alone; of 200 frames one in ten, and the first always."""
    seen = np.asarray(measure(KEY, replace(PERFECT, near=2.0, far=4.0), DEPTH)) > 0
    np.testing.assert_array_equal(seen, (DEPTH >= 2) & (DEPTH <= 4))
    few = np.asarray(measure(KEY, replace(PERFECT, frames=0.1), np.ones((200, 2, 2), np.float32)))
    given = few[:, 0, 0] > 0
    assert given[0] and 10 < given.sum() < 32 and (few.any(axis=(1, 2)) == few.all(axis=(1, 2))).all()
    assert not np.asarray(measure(KEY, replace(PERFECT, first=0.0), DEPTH))[0].any()


def test_the_kinds_that_training_meets() -> None:
    """Of 400 drawn sensors about three in twenty give nothing, as many less than a third of the frames."""
    drawn = jax.vmap(random_sensor)(jax.random.split(KEY, 400))
    share = np.asarray(drawn.frames)
    assert 0.1 < (share == 0).mean() < 0.2 and 0.1 < ((share > 0) & (share < 0.3)).mean() < 0.2
    assert (np.asarray(drawn.first)[share == 0] == 0).all()
    for low, values, high in ((0, drawn.noise, 0.03), (0, drawn.holes, 0.6), (0, drawn.near, 0.5), (2.5, drawn.far, 8)):
        assert low <= np.min(values) < np.max(values) <= high
