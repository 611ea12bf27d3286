"""Tracks of three and more views, from a run's depth maps: what COLMAP needs to show, refine or densify a model.

A pixel of frame i becomes a point by its depth, and is looked for in the frames up to 16 before and after: there its
projection must lie inside the image, and its depth must agree with that frame's own. The projection alone would repeat
what the model believes and leave bundle adjustment nothing to do; so the two images are compared around it
(`refine`), and the place where they agree is what is recorded.

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
"""How far before and after its own a point is looked for: near frames to be found, far ones to be measured well."""
REACH = STRIDES[-1]
CELL = 12
"""Pixels between samples; a cell of this size in which an older point was seen makes no new one."""
TOLERANCE = 0.02
"""Relative difference of depths that agree."""
FEWEST = 3
"""Views of a track."""
EDGE = PATCH // 2
"""Pixels that a patch reaches around its middle; it must lie inside the image."""


@dataclass
class TrackedFrame:
    """A frame in which points may still be seen."""

    result: Result
    grey: np.ndarray
    """float32 [H, W]"""
    slopes: tuple[np.ndarray, np.ndarray]
    """Its derivatives along u and v, float32 [H, W] each."""
    depth: np.ndarray
    """float32 [H, W], NaN where it is unknown."""
    samples: np.ndarray
    """bool [rows, columns] of cells that may still make a point."""
    pixels: list[np.ndarray] = field(default_factory=list)
    """Observations float64 [K, 2] in pixels of the model's input, a batch for every frame whose points were seen here."""
    points: list[np.ndarray] = field(default_factory=list)
    """Their points' numbers int64 [K]."""
    count: int = 0
    """Observations so far."""


@dataclass(frozen=True)
class NewPoints:
    """The points that one frame's pixels make."""

    numbers: np.ndarray
    """int64 [N], from 1."""
    positions: np.ndarray
    """float64 [N, 3] in the world."""
    colours: np.ndarray
    """uint8 [N, 3]"""
    tracks: list[np.ndarray]
    """Per point int64 [views, 2]: the frame's position in the run, and which of its observations."""


class Tracker:
    """Follows a run's frames, fed in order; see the module's text."""

    def __init__(self, options: ExportOptions):
        self._options = options
        self._frames: deque[TrackedFrame] = deque()
        self._first = 0  # position of the oldest frame in memory
        self._points = 0

    def feed(self, result: Result) -> None:
        """Takes the next frame into the window."""
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
        """Makes the points of a frame whose followers, up to `REACH`, were fed; adds observations to all of them."""
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
        """Lets go of the oldest frame: its pixels float64 [M, 2] and their points' numbers int64 [M]."""
        frame = self._frames.popleft()
        self._first += 1
        return np.concatenate((np.zeros((0, 2)), *frame.pixels)), np.concatenate((np.zeros(0, np.int64), *frame.points))


def _cover(frame: TrackedFrame, pixels: np.ndarray) -> None:
    """Lets the cells of these pixels make no new points."""
    column, row = np.floor((pixels + 0.5) / CELL).astype(int).T
    rows, columns = frame.samples.shape
    frame.samples[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)] = False


def _see(frame: TrackedFrame, other: TrackedFrame, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of a frame's pixels int [N, 2] another frame sees, int [K], and where, float64 [K, 2]."""
    expected, depth = project(other.result, _world_points(frame, pixels.astype(np.float64), _at(frame.depth, pixels)))
    height, width = other.depth.shape
    inside = ((expected >= EDGE) & (expected <= (width - 1 - EDGE, height - 1 - EDGE))).all(axis=-1)
    which = np.flatnonzero(inside & (depth > 0))
    own = ndimage.map_coordinates(other.depth, expected[which].T[::-1], order=1)  # NaN next to unknown depth
    which = which[np.abs(own - depth[which]) <= TOLERANCE * depth[which]]
    # Where each pixel of the patch around the sample lies in the other image, by the frame's own depth.
    offsets = np.stack(np.meshgrid(*2 * [np.arange(PATCH) - EDGE]), axis=-1).reshape(-1, 2)
    patches = pixels[which, None] + offsets
    slope = np.stack([_at(along, patches) for along in frame.slopes], axis=-1)
    corners = _world_points(frame, patches.astype(np.float64), _at(frame.depth, patches))
    places, _ = project(other.result, corners)
    shift, found = refine(_at(frame.grey, patches), slope, other.grey, places)
    return which[found], expected[which[found]] + shift[found]


def stretch_of(result: Result) -> float:
    """What makes the pixels of the model's input square, along v."""
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
    with np.errstate(invalid="ignore"):  # of depths that are not finite
        return rays * depth[..., None].astype(np.float64) @ world_from_cam[:, :3].T + world_from_cam[:, 3]


def _at(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return image[pixels[..., 1], pixels[..., 0]]


def _cell_centres(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the middle pixels of all whole cells."""
    height, width = shape
    return np.arange(height // CELL) * CELL + CELL // 2, np.arange(width // CELL) * CELL + CELL // 2
