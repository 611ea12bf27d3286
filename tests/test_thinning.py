"""Which frames and points a page shows: bounded at any length, an overview first, a fair choice."""

import dataclasses

import numpy as np
import pytest
from writer_scene import HEIGHT, WIDTH, result

from ivggt_jax.writers.drawn import MOST_EACH, MOST_FRAMES, MOST_POINTS, Thinned


def read(thinned: Thinned, item) -> None:
    """As a page does: everything that is missing, all frames alike."""
    for position in thinned.missing():
        thinned.add(position, item)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 511, 512, 513, 10_000, 1_000_000])
def test_frames_and_points_are_bounded_whatever_the_length(count: int) -> None:
    thinned = Thinned()
    thinned.grow(count)
    missing = thinned.missing()
    assert sorted(missing) == list(range(0, count, thinned.stride))
    assert missing[0] == 0
    assert min(count, MOST_FRAMES / 2) <= len(missing) <= MOST_FRAMES
    assert len(missing) * thinned.each <= MOST_POINTS
    assert thinned.each == MOST_EACH or len(missing) * thinned.each > MOST_POINTS / 4


def test_the_first_frames_read_are_an_overview() -> None:
    """Of a long run's 313 drawn frames the first 20 leave no gap of more than a tenth of the run."""
    thinned = Thinned()
    thinned.grow(10_000)
    first = sorted(thinned.missing()[:20])
    assert max(np.diff([*first, 10_000])) <= 1024


def test_a_growing_run_ends_with_what_a_finished_one_shows() -> None:
    item, small, growing, whole = result(0), 40, Thinned(), Thinned()
    item = dataclasses.replace(item, points=item.points[:small], points_confidence=item.points_confidence[:small],
                               frame=dataclasses.replace(item.frame, image=item.frame.image[:small]))  # fmt: skip
    dropped = []
    for count in (1, 3, 200, 600, 1100):
        if growing.grow(count):
            dropped.append(count)
        read(growing, item)
        assert len(growing.frames) <= MOST_FRAMES
        assert sum(len(frame.points) for frame in growing.frames.values()) <= MOST_POINTS
    assert dropped == [200, 600, 1100]
    whole.grow(1100)
    read(whole, item)
    assert growing.frames.keys() == whole.frames.keys()
    for position, frame in whole.frames.items():
        np.testing.assert_array_equal(frame.points, growing.frames[position].points)


def test_points_are_the_frames_own_and_the_confident_ones_are_chosen_by_percentile() -> None:
    item = result(3)
    confidence = np.random.default_rng(0).random((HEIGHT, WIDTH), np.float32)
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:20] = False
    points = item.points.copy()
    points[30] = np.nan
    frame = dataclasses.replace(item.frame, mask=mask)
    thinned = Thinned()
    thinned.grow(1)
    thinned.add(0, dataclasses.replace(item, frame=frame, points=points, points_confidence=confidence))
    drawn = thinned.frames[0]
    assert len(drawn.points) == (HEIGHT - 21) * WIDTH < MOST_EACH
    place = {tuple(point): index for index, point in enumerate(item.points.reshape(-1, 3))}
    chosen = np.array([place[tuple(point)] for point in drawn.points])
    np.testing.assert_array_equal(drawn.colours, item.frame.image.reshape(-1, 3)[chosen])
    assert mask.ravel()[chosen].all()
    kept = drawn.points[drawn.percentile >= 75]
    assert len(kept) == pytest.approx(len(chosen) / 4, rel=0.05)
    values = confidence.ravel()[chosen]
    assert values[drawn.percentile >= 75].min() >= values[drawn.percentile < 75].max()


def test_equal_confidences_are_shown_together_and_few_points_are_a_fair_sample() -> None:
    thinned = Thinned()
    thinned.grow(MOST_FRAMES)
    item = result(0)
    thinned.add(0, dataclasses.replace(item, points_confidence=np.ones((HEIGHT, WIDTH), np.float32)))
    frame = thinned.frames[0]
    points = frame.points[frame.percentile >= 99]
    assert len(points) == thinned.each == MOST_POINTS // MOST_FRAMES
    np.testing.assert_allclose(points.mean(axis=0), item.points.mean(axis=(0, 1)), atol=0.15)


def test_a_frame_without_points_still_has_its_camera() -> None:
    thinned = Thinned()
    thinned.grow(1)
    thinned.add(0, result(2, points=None, points_confidence=None))
    assert len(thinned.frames[0].points) == 0
    np.testing.assert_allclose(thinned.frames[0].pyramid[0], result(2).world_from_cam[:, 3])
