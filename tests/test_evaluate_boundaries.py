"""Contours of depth maps: known answers on a step between 1 and 2 metres, [6,8] pixels."""

import numpy as np
import pytest

from ivggt_jax.evaluate.boundaries import RATIOS, boundary_f1


def step(column: int, far: float = 2.0) -> np.ndarray:
    """Depth 1 left of a column, `far` from there on."""
    return np.where(np.arange(8) < column, 1.0, far)[None].repeat(6, axis=0)


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        (step(4), 1.0),
        (5 * step(4), 1.0),
        (step(4, far=8.0), 1.0),  # how much farther does not count
        (step(5), 0.0),  # a pixel beside
        (step(4, far=0.5), 0.0),  # the wrong side is in front
        (np.ones((6, 8)), 0.0),
        (np.full((6, 8), np.nan), 0.0),
        (step(4, far=1.15), np.average(RATIOS < 1.15, weights=RATIOS)),
    ],
)
def test_a_contour_counts_where_it_is(prediction: np.ndarray, score: float) -> None:
    assert boundary_f1(prediction, step(4)) == pytest.approx(score)


def test_a_map_is_right_about_itself_however_small_its_steps() -> None:
    """At most ratios a step of 1.1 is none, in neither map."""
    assert boundary_f1(step(4, far=1.1), step(4, far=1.1)) == pytest.approx(1)
    few = RATIOS < 1.1
    assert boundary_f1(step(4), step(4, far=1.1)) == pytest.approx(np.average(few, weights=RATIOS))


def test_precision_and_recall_count_alike() -> None:
    """Two contours where one is true: precision 1/2, recall 1, F1 2/3."""
    twice = np.where(np.arange(8) < 2, 1.0, np.where(np.arange(8) < 4, 2.0, 4.0))[None].repeat(6, axis=0)
    assert boundary_f1(twice, step(4)) == pytest.approx(2 / 3)
    assert boundary_f1(step(4), twice) == pytest.approx(2 / 3)


def test_unknown_depth_has_no_contour() -> None:
    truth = step(4)
    truth[:, 4] = 0
    assert np.isnan(boundary_f1(step(4), truth))
    truth[0, 4] = 2
    assert boundary_f1(step(4), truth) == pytest.approx(1)
