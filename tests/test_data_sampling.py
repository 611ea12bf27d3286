"""Which frames make a clip."""

import numpy as np
import pytest

from ivggt_jax.train.data.sampling import Sampling, select_frames


def draw(seed: int, count: int = 8, start: int = 5, length: int = 200, **options: float) -> list[int]:
    return select_frames(np.random.default_rng(seed), count, start, length, Sampling(**options))


def test_same_seed_same_frames() -> None:
    assert draw(3) == draw(3)
    assert len({tuple(draw(seed)) for seed in range(20)}) > 15


@pytest.mark.parametrize("length", [14, 20, 60, 400])
@pytest.mark.parametrize("options", [{}, {"video": 0.0}, {"video": 1.0}, {"video": 0.5, "block": 3}])
def test_frames_are_different_inside_and_from_the_start_on(length: int, options: dict) -> None:
    for seed in range(50):
        positions = draw(seed, length=length, **options)
        assert len(set(positions)) == 8
        assert min(positions) == 5
        assert max(positions) < length


def test_video_is_in_order_with_steps_up_to_the_largest() -> None:
    largest = 0
    for seed in range(100):
        steps = np.diff(draw(seed, length=1000, video=1.0, fixed_interval=0.0, max_interval=9))
        assert steps.min() >= 1
        largest = max(largest, steps.max())
    assert largest == 9


def test_fixed_interval_has_equal_steps_that_fit() -> None:
    steps = [np.diff(draw(seed, length=60, video=1.0, fixed_interval=1.0)) for seed in range(100)]
    assert all(len(set(step)) == 1 for step in steps)
    assert {int(step[0]) for step in steps} == set(range(1, 54 // 7 + 1))


def test_collections_are_shuffled_whole_or_in_blocks() -> None:
    whole = [draw(seed, length=1000, video=0.0) for seed in range(50)]
    assert sum(positions[0] == 5 for positions in whole) < 25, "the first frame is not always the earliest"
    for seed in range(50):
        positions = draw(seed, length=1000, video=0.0, block=4)
        assert max(positions[:4]) < min(positions[4:])
    assert any(draw(seed, length=1000, video=0.0, block=4)[0] != 5 for seed in range(20))


def test_just_enough_frames_are_taken_in_order() -> None:
    assert draw(0, count=8, start=5, length=13, video=0.0) == list(range(5, 13))
    assert draw(0, count=1, start=5, length=6) == [5]
    assert draw(0, count=1, start=5, length=50) == [5]


def test_too_few_frames_are_an_error() -> None:
    with pytest.raises(ValueError, match="8 frames from frame 5 on"):
        draw(0, length=12)
    with pytest.raises(ValueError, match="probability"):
        Sampling(video=1.5)
    with pytest.raises(ValueError, match="max_interval"):
        Sampling(max_interval=0)
