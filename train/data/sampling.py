"""Selects the frames of a long sequence that make one training clip."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Spacing and order of the frames; a property of a dataset, because frame rate and motion differ.

    Raises ValueError for fields that make no sense.
    """

    max_interval: int = 25
    """Largest step from one frame to the next."""
    video: float = 0.5
    """Probability that a clip keeps its order in time; otherwise it is shuffled."""
    fixed_interval: float = 0.5
    """Probability that an ordered clip has equal steps."""
    block: int | None = None
    """Shuffle only within consecutive blocks of this many frames; None: the whole clip."""

    def __post_init__(self) -> None:
        if self.max_interval < 1 or (self.block is not None and self.block < 1):
            raise ValueError(f"max_interval {self.max_interval} and block {self.block} must be at least 1")
        for name in ("video", "fixed_interval"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, not {getattr(self, name)}")


def select_frames(generator: np.random.Generator, count: int, start: int, length: int, sampling: Sampling) -> list[int]:
    """Positions of `count` different frames from `start` on, in a sequence of `length` frames.

    Steps are drawn from 1 to the largest that is likely to fit; positions past the end are replaced by earlier unused ones. If
    there are just enough frames from `start` on, all are taken in order (CUT3R's sampler). Raises ValueError when there are too
    few.
    """
    after = length - 1 - start
    if start < 0 or after < count - 1:
        raise ValueError(f"{count} frames from frame {start} on do not fit a sequence of {length}")
    if after == count - 1:
        return list(range(start, length))
    largest = min(sampling.max_interval, 2 * after // max(count - 1, 1))
    intervals = generator.integers(1, largest, count - 1, endpoint=True)
    in_order = generator.random() < sampling.video
    if in_order and count > 1 and generator.random() < sampling.fixed_interval:
        intervals[:] = generator.integers(1, min(after // (count - 1), largest), endpoint=True)
    walk = start + np.concatenate([[0], np.cumsum(intervals)])
    inside = walk[walk < length]
    unused = np.setdiff1d(np.arange(start, length), inside)
    positions = np.concatenate([inside, generator.choice(unused, count - len(inside), replace=False)])
    if in_order:
        return sorted(positions.tolist())
    block = sampling.block or count
    shuffled = [generator.permutation(positions[i : i + block]) for i in range(0, count, block)]
    return np.concatenate(shuffled).tolist()
