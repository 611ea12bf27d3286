"""Tracks of three and more views from a run's depth maps, which COLMAP needs to show, refine or densify a model.

A pixel of frame i becomes a point by its depth, and is searched in frames up to 16 before and after. Its projection there must be
inside the image, and its depth must agree with that frame's own. The projection alone would repeat what the model predicts and
leave nothing for bundle adjustment to do. So the two images are compared around it (`refine`), and the place where they agree is
recorded.

Frames are read once, in order, and 33 of them are in memory, whatever the length of the run.
"""

import dataclasses
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from ivggt_jax.writers.matching import PATCH, refine
from ivggt_jax.writers.pixels import point_mask
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, required

STRIDES = (1, 2, 4, 8, 16)
"""Distances in frames at which a point is searched: near frames to find it, far ones to measure it well."""
REACH = STRIDES[-1]
CELL = 12
"""Spacing of samples in pixels; a cell of this size in which an older point was seen makes no new one."""
TOLERANCE = 0.02
"""Largest relative difference of agreeing depths."""
FEWEST = 3
"""Fewest views of a track."""
EDGE = PATCH // 2
"""Pixels from a patch's centre to its edge; the patch must be inside the image."""


@dataclass
class TrackedFrame:
    """A frame in which points may still be found."""

    result: Result
    grey: np.ndarray
    """float32 [H, W]"""
    slopes: tuple[np.ndarray, np.ndarray]
    """Derivatives of grey along u and v, float32 [H, W] each."""
    depth: np.ndarray
    """float32 [H, W], NaN where unknown."""
    samples: np.ndarray
    """bool [rows, columns]: cells that may still make a point."""
    pixels: list[np.ndarray] = field(default_factory=list)
    """Observations float64 [K, 2] in pixels of the model's input, a batch for every frame whose points were found here."""
    points: list[np.ndarray] = field(default_factory=list)
    """Numbers of their points, int64 [K]."""
    count: int = 0
    """Number of observations so far."""


@dataclass(frozen=True)
class NewPoints:
    """The points made from one frame's pixels."""

    numbers: np.ndarray
    """int64 [N], counted from 1."""
    positions: np.ndarray
    """float64 [N, 3] in the world."""
    colours: np.ndarray
    """uint8 [N, 3]"""
    tracks: list[np.ndarray]
    """Per point int64 [views, 2]: position of the frame in the run, and index of the observation in it."""


class Tracker:
    """Finds tracks in a run's frames, fed in order; see the module's docstring."""

    def __init__(self, options: ExportOptions):
        self._options = options
        self._frames: deque[TrackedFrame] = deque()
        self._first = 0  # position of the oldest frame in memory
        self._points = 0

    def feed(self, result: Result) -> None:
        """Add the next frame to the window."""
        depth = required(result.depth, "a COLMAP model", "depth").astype(np.float32)
        valid = point_mask(result, self._options) & (depth > 0)
        grey = ndimage.gaussian_filter(result.frame.image.astype(np.float32).mean(axis=-1), 0.7)
        rows, columns = _cell_centres(depth.shape)
        inside = np.zeros_like(valid)
        inside[EDGE:-EDGE, EDGE:-EDGE] = True
        samples = (valid & inside)[rows[:, None], columns]
        slim = dataclasses.replace(result, depth=None, depth_confidence=None, points=None, points_confidence=None)
        along_v, along_u = np.gradient(grey)
        self._frames.append(TrackedFrame(slim, grey, (along_u, along_v), np.where(valid, depth, np.nan), samples))

    def points_of(self, position: int) -> NewPoints:
        """Make the points of a frame after the following frames, up to `REACH`, were fed; adds observations to all of them."""
        frame = self._frames[position - self._first]
        rows, columns = _cell_centres(frame.depth.shape)
        cells = np.argwhere(frame.samples)
        pixels = np.stack((columns[cells[:, 1]], rows[cells[:, 0]]), axis=-1)
        seen = [(position, np.arange(len(pixels)), pixels.astype(np.float64))]
        for stride in STRIDES:
            for other in (position - stride, position + stride):
                if 0 <= other - self._first < len(self._frames):
                    seen.append((other, *_see(frame, self._frames[other - self._first], pixels)))
        views = np.bincount(np.concatenate([which for _, which, _ in seen]), minlength=len(pixels))
        kept = np.flatnonzero(views >= FEWEST)
        numbers = np.zeros(len(pixels), np.int64)
        numbers[kept] = self._points + 1 + np.arange(len(kept))
        self._points += len(kept)
        tracks: list[list[tuple[int, int]]] = [[] for _ in kept]
        for other, which, where in seen:
            known = numbers[which] > 0
            target = self._frames[other - self._first]
            for number in numbers[which[known]] - numbers[kept[0]] if len(kept) else ():
                tracks[number].append((other, target.count))
                target.count += 1
            target.pixels.append(where[known])
            target.points.append(numbers[which[known]])
            _cover(target, where[known])
        u, v = pixels[kept].T
        positions = _world_points(frame, np.stack((u, v), axis=-1).astype(np.float64), frame.depth[v, u])
        colours = frame.result.frame.image[v, u]
        return NewPoints(numbers[kept], positions, colours, [np.array(track) for track in tracks])

    def observations(self) -> tuple[np.ndarray, np.ndarray]:
        """Release the oldest frame. Returns its pixels float64 [M, 2] and their points' numbers int64 [M]."""
        frame = self._frames.popleft()
        self._first += 1
        return np.concatenate((np.zeros((0, 2)), *frame.pixels)), np.concatenate((np.zeros(0, np.int64), *frame.points))


def _cover(frame: TrackedFrame, pixels: np.ndarray) -> None:
    """Keep the cells of these pixels from making new points."""
    column, row = np.floor((pixels + 0.5) / CELL).astype(int).T
    rows, columns = frame.samples.shape
    frame.samples[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)] = False


def _see(frame: TrackedFrame, other: TrackedFrame, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of a frame's pixels int [N, 2] another frame sees, int [K], and their positions there, float64 [K, 2]."""
    expected, depth = project(other.result, _world_points(frame, pixels.astype(np.float64), _at(frame.depth, pixels)))
    height, width = other.depth.shape
    inside = ((expected >= EDGE) & (expected <= (width - 1 - EDGE, height - 1 - EDGE))).all(axis=-1)
    which = np.flatnonzero(inside & (depth > 0))
    own = ndimage.map_coordinates(other.depth, expected[which].T[::-1], order=1)  # NaN next to unknown depth
    which = which[np.abs(own - depth[which]) <= TOLERANCE * depth[which]]
    # Position of each pixel of the patch around the sample in the other image, by the frame's own depth.
    offsets = np.stack(np.meshgrid(*2 * [np.arange(PATCH) - EDGE]), axis=-1).reshape(-1, 2)
    patches = pixels[which, None] + offsets
    slope = np.stack([_at(along, patches) for along in frame.slopes], axis=-1)
    corners = _world_points(frame, patches.astype(np.float64), _at(frame.depth, patches))
    places, _ = project(other.result, corners)
    shift, found = refine(_at(frame.grey, patches), slope, other.grey, places)
    return which[found], expected[which[found]] + shift[found]


def stretch_of(result: Result) -> float:
    """Factor along v that makes the pixels of the model's input square."""
    return result.frame.fit.scale[0] / result.frame.fit.scale[1]


def project(result: Result, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [..., 2] of the model's input and depths [...] of world points [..., 3]; NaN stays NaN."""
    k = result.intrinsics
    with np.errstate(divide="ignore", invalid="ignore"):
        in_camera = points @ result.cam_from_world[:, :3].T + result.cam_from_world[:, 3]
        pixels = in_camera[..., :2] / in_camera[..., 2:] * (k[0, 0], k[1, 1]) + k[:2, 2]
    return pixels, in_camera[..., 2]


def _world_points(frame: TrackedFrame, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """World points float64 [..., 3] of pixels [..., 2] with depths [...]."""
    k = frame.result.intrinsics
    rays = np.concatenate(((pixels - k[:2, 2]) / (k[0, 0], k[1, 1]), np.ones_like(pixels[..., :1])), axis=-1)
    world_from_cam = frame.result.world_from_cam
    with np.errstate(invalid="ignore"):  # for depths that are not finite
        return rays * depth[..., None].astype(np.float64) @ world_from_cam[:, :3].T + world_from_cam[:, 3]


def _at(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return image[pixels[..., 1], pixels[..., 0]]


def _cell_centres(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the centre pixels of all complete cells."""
    height, width = shape
    return np.arange(height // CELL) * CELL + CELL // 2, np.arange(width // CELL) * CELL + CELL // 2
