"""Which of a run's frames a page shows, and with how many points: bounded, however long the run."""

from dataclasses import dataclass

import numpy as np

from ivggt_jax.writers.frusta import frustum_corners
from ivggt_jax.writers.result import Result

MOST_FRAMES = 512
"""Frames drawn; of longer runs every second one, every fourth, …"""
MOST_POINTS = 1 << 20
"""Points drawn, of all frames together."""
MOST_EACH = MOST_POINTS // 64
"""Points of one frame."""


@dataclass(frozen=True)
class DrawnFrame:
    """What is drawn of one frame."""

    points: np.ndarray
    """float32 [N, 3] in the world, in random order: the first n of them are a fair sample."""
    colours: np.ndarray
    """uint8 [N, 3]"""
    percentile: np.ndarray
    """uint8 [N]: how many per cent of the frame's pixels are no more confident than this one."""
    pyramid: np.ndarray
    """float64 [5, 3]: the camera's position, and its image's corners at depth 1."""

    def confident(self, percentile: float) -> tuple[np.ndarray, np.ndarray]:
        """Points and colours at or above a percentile of confidence."""
        keep = self.percentile >= percentile
        return self.points[keep], self.colours[keep]


class Thinned:
    """The frames to draw of a run that grows: `count` frames so far, every `stride`-th of them, `each` points of one."""

    def __init__(self) -> None:
        self.count, self.stride, self.each = 0, 1, MOST_EACH
        self.frames: dict[int, DrawnFrame] = {}
        """Those read so far, by their position in the run."""

    def grow(self, count: int) -> bool:
        """The run has `count` frames now. Returns whether frames were dropped or shortened to make room."""
        self.count = count
        stride, each = self.stride, self.each
        while -(-count // self.stride) > MOST_FRAMES:
            self.stride *= 2
        while self.each * -(-count // self.stride) > MOST_POINTS:
            self.each //= 2
        if (stride, each) == (self.stride, self.each):
            return False
        self.frames = {
            position: DrawnFrame(
                frame.points[: self.each], frame.colours[: self.each], frame.percentile[: self.each], frame.pyramid
            )
            for position, frame in self.frames.items()
            if position % self.stride == 0
        }
        return True

    def missing(self) -> list[int]:
        """Positions to read next, from a coarse overview to the frames between."""
        wanted = set(range(0, self.count, self.stride)) - self.frames.keys()
        return sorted(wanted, key=lambda position: (-(position & -position) if position else -self.count, position))

    def add(self, position: int, result: Result) -> None:
        """Take in a frame that was read."""
        if result.points is None:
            empty = np.zeros((0, 3))
            points, colours, percentile = empty.astype(np.float32), empty.astype(np.uint8), np.zeros(0, np.uint8)
        else:
            points, colours, percentile = _sample(result, result.points, self.each, position)
        self.frames[position] = DrawnFrame(points, colours, percentile, frustum_corners(result, 1.0))


def _sample(result: Result, points: np.ndarray, most: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, colours and percentiles of confidence of at most so many pixels, drawn at random."""
    valid = np.isfinite(points).all(axis=-1)
    if result.frame.mask is not None:
        valid &= result.frame.mask
    confidence = result.points_confidence
    confidence = np.zeros(valid.shape, np.float32) if confidence is None else np.nan_to_num(confidence, nan=-np.inf)
    confidence = confidence[valid]
    chosen = np.random.default_rng(seed).permutation(len(confidence))[:most]
    # Pixels of equal confidence are shown or hidden together.
    no_more = np.searchsorted(np.sort(confidence), confidence[chosen], side="right")
    percentile = (100 * no_more // max(1, len(confidence))).astype(np.uint8)
    return points[valid][chosen], result.frame.image[valid][chosen], percentile
