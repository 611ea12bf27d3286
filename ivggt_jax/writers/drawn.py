"""Which of a run's frames a page draws, and with how many points: bounded for any length of the run."""

from dataclasses import dataclass, replace

import numpy as np

from ivggt_jax.writers.frusta import frustum_corners
from ivggt_jax.writers.pixels import point_mask
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions

MOST_FRAMES = 512
"""Most frames drawn; of longer runs every second one, every fourth, …"""
MOST_POINTS = 1 << 20
"""Most points drawn, over all frames."""
MOST_EACH = MOST_POINTS // 64
"""Most points of one frame in a run that may still become long."""


@dataclass(frozen=True)
class DrawnFrame:
    """The drawn parts of one frame."""

    points: np.ndarray
    """float32 [N, 3] in the world, in random order, so that the first n are a fair sample."""
    colours: np.ndarray
    """uint8 [N, 3]"""
    percentile: np.ndarray
    """uint8 [N]: percentage of the frame's pixels that are not more confident than this one."""
    depth: np.ndarray
    """float32 [N]: z in the frame's own camera."""
    facing: np.ndarray
    """int8 [N, 3]: direction in the world that the surface faces, 127 long; 0 where it is unknown."""
    pyramid: np.ndarray
    """float64 [5, 3]: the camera's position, and its image's corners at depth 1."""

    def first(self, count: int) -> "DrawnFrame":
        """The same frame with at most `count` of its points."""
        own = slice(count)
        return replace(
            self, points=self.points[own], colours=self.colours[own], percentile=self.percentile[own],
            depth=self.depth[own], facing=self.facing[own],
        )  # fmt: skip


class Thinned:
    """The frames to draw of a growing run: every `stride`-th of the `count` frames so far, with `each` points per frame."""

    def __init__(self, options: ExportOptions | None = None, each: int = MOST_EACH) -> None:
        """options: which pixels become points, whatever their confidence, and the total if it is below `MOST_POINTS`.

        each: points per frame while there are few frames.
        """
        self._options = replace(options or ExportOptions(), confidence=0)
        self._most = min(MOST_POINTS, self._options.max_points)
        self.count, self.stride, self.each = 0, 1, each
        self.frames: dict[int, DrawnFrame] = {}
        """Frames read so far, by position in the run."""

    def grow(self, count: int) -> bool:
        """Update the number of frames. Returns whether frames were dropped or shortened to make room."""
        self.count = count
        stride, each = self.stride, self.each
        while -(-count // self.stride) > MOST_FRAMES:
            self.stride *= 2
        while self.each * -(-count // self.stride) > self._most:
            self.each //= 2
        if (stride, each) == (self.stride, self.each):
            return False
        self.frames = {
            position: frame.first(self.each) for position, frame in self.frames.items() if position % self.stride == 0
        }
        return True

    def missing(self) -> list[int]:
        """Positions to read next, from a coarse overview to the frames between."""
        wanted = set(range(0, self.count, self.stride)) - self.frames.keys()
        return sorted(wanted, key=lambda position: (-(position & -position) if position else -self.count, position))

    def add(self, position: int, result: Result) -> None:
        """Add a frame that was read."""
        self.frames[position] = self._sample(result, position)

    def _sample(self, result: Result, seed: int) -> DrawnFrame:
        """At most `each` of the frame's points, sampled at random."""
        pyramid = frustum_corners(result, 1.0)
        if result.points is None:
            none = np.zeros((0, 3), np.float32)
            return DrawnFrame(
                none, none.astype(np.uint8), np.zeros(0, np.uint8), none[:, 0], none.astype(np.int8), pyramid
            )
        valid = point_mask(result, self._options)
        confidence = np.zeros(valid.shape) if result.points_confidence is None else result.points_confidence
        confidence = confidence[valid]
        chosen = np.random.default_rng(seed).permutation(len(confidence))[: self.each]
        # Pixels of equal confidence are shown or hidden together.
        no_more = np.searchsorted(np.sort(confidence), confidence[chosen], side="right")
        percentile = (100 * no_more // max(1, len(confidence))).astype(np.uint8)
        points, forward = result.points[valid][chosen], result.cam_from_world[2]
        depth = (points @ forward[:3] + forward[3]).astype(np.float32)
        directions = facing(result.points, pyramid[0])[valid][chosen]
        return DrawnFrame(points, result.frame.image[valid][chosen], percentile, depth, directions, pyramid)


def facing(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Direction int8 [H, W, 3] that the surface of points [H, W, 3] faces, 127 long: towards the camera at [3], as it is seen.

    Neighbours give the surface; where one is not finite, the direction is 0.
    """
    if min(points.shape[:2]) < 2:
        return np.zeros(points.shape, np.int8)
    down, right = np.gradient(points, axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        normal = np.cross(right, down)
        normal *= np.sign(np.sum(normal * (camera - points), axis=-1, keepdims=True))
        normal *= 127 / np.linalg.norm(normal, axis=-1, keepdims=True)
    return np.nan_to_num(np.rint(normal), nan=0, posinf=0, neginf=0).astype(np.int8)
