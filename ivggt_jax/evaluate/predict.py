"""Runs a model on a data set's sequence: cameras are kept in memory, depth and points in files, for any length."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from ivggt_jax import geometry
from ivggt_jax.config import CacheConfig, HeadName
from ivggt_jax.evaluate.datasets import Sequence
from ivggt_jax.evaluate.loops import MapFollower
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.sources.fit import fit_image
from ivggt_jax.sources.frame import Fit
from ivggt_jax.sources.image_file import read_image
from ivggt_jax.streaming.steps import infer_clip, stream
from ivggt_jax.trajectories.alignment import inverse
from ivggt_jax.transforms import Similarity

Mode = Literal["stream", "causal", "offline"]
"""`stream`: frame by frame with the cache; `causal` and `offline`: the whole sequence at once, where each frame sees those before
it (StreamVGGT) or all (VGGT), in memory that grows with the length."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions of a sequence of S frames."""

    cam_from_world: np.ndarray
    """float64 [S,3,4]"""
    intrinsics: np.ndarray
    """float64 [S,3,3], pixels of the model's input."""
    fits: tuple[Fit, ...]
    """How each image was fitted to the model's input."""
    folder: Path
    """Folder of depth and points, with a file for each frame."""
    moves: tuple[Similarity, ...] | None = None
    """Moves of each frame's depth and points into a map corrected by loops; the cameras are already in it."""

    def depth(self, index: int) -> np.ndarray:
        """float32 [H,W]"""
        depth = np.load(_file(self.folder, index, "depth"))
        return depth if self.moves is None else np.float32(self.moves[index].scale) * depth

    def points(self, index: int) -> np.ndarray:
        """From the point head: float32 [H,W,3] in the first camera's frame."""
        points = np.load(_file(self.folder, index, "points"))
        return points if self.moves is None else self.moves[index].points(points).astype(np.float32)

    def projected_points(self, index: int) -> np.ndarray:
        """The depth's points, float32 [H,W,3], in the first camera's frame."""
        camera, intrinsics = (x[index].astype(np.float32) for x in (self.cam_from_world, self.intrinsics))
        return np.asarray(_unproject(self.depth(index), camera, intrinsics))


def predict(
    model: Model,
    sequence: Sequence,
    folder: Path,
    *,
    heads: tuple[HeadName, ...],
    size: int,
    mode: Mode,
    cache: CacheConfig,
    mapping: SubmapOptions,
    every: int = 1,
) -> Predicted:
    """Run the model on all frames of a sequence, with `heads` besides the camera, on images `size` pixels wide.

    Depth and points are kept of one frame in `every`, from the first one on. All frames are brought to the first one's shape. With
    `mapping.loops` cameras, depth and points are those of the corrected map. Raises ValueError, naming the file, for an image that
    cannot be read.
    """
    fits: list[Fit] = []
    seen: deque[np.ndarray] = deque()
    follower = MapFollower() if mapping.loops else None
    images = _images(sequence, size, fits)
    submaps = None
    if mode == "stream":
        submaps = mapping.choose(model.config, len(sequence), frames_per_step=cache.frames_per_step)
    wanted: tuple[HeadName, ...] = ("camera", *heads)
    cameras, intrinsics = [], []
    first = next(images)
    height, width = first.shape[:2]
    if mode != "stream":
        predictions = _at_once(model, np.stack([first, *images]), mode, wanted)
    else:
        linked = wanted if submaps is None else tuple(dict.fromkeys((*wanted, "depth")))
        frames = chain([first], images)
        noted = frames if follower is None else _noted(frames, seen)
        predictions = stream(model, noted, cache, heads=linked, submaps=submaps)
    for index, found in enumerate(predictions):
        camera, matrix = _cameras(found.pose_encoding, height, width)
        cameras.append(np.asarray(camera, np.float64))
        intrinsics.append(np.asarray(matrix, np.float64))
        for head in heads if index % every == 0 else ():
            np.save(_file(folder, index, head), getattr(found, head))
        if follower is not None:
            follower.add(seen.popleft()[None], jax.tree.map(lambda x: x[None], found))
    cam_from_world, moves = np.stack(cameras), None
    if follower is not None:
        world_from_cam = inverse(cam_from_world)
        moves = tuple(follower.finish().moves(world_from_cam))
        corrected = [move.poses(camera) for move, camera in zip(moves, world_from_cam, strict=True)]
        cam_from_world = inverse(np.stack(corrected))
    return Predicted(cam_from_world, np.stack(intrinsics), tuple(fits), folder, moves)


def _images(sequence: Sequence, size: int, fits: list[Fit]) -> Iterator[np.ndarray]:
    """uint8 [H,W,3] frame by frame; how each was fitted is appended to `fits`."""
    like = None
    for path in sequence.images:
        image, fit = fit_image(read_image(path), size, "crop", like)
        like = (image.shape[1], image.shape[0])
        fits.append(fit)
        yield image


def _noted(images: Iterator[np.ndarray], seen: deque[np.ndarray]) -> Iterator[np.ndarray]:
    """The images, each of which is also appended to `seen`."""
    for image in images:
        seen.append(image)
        yield image


def _at_once(
    model: Model, images: np.ndarray, mode: Literal["causal", "offline"], heads: tuple[HeadName, ...]
) -> Iterator[Predictions]:
    predictions = jax.device_get(infer_clip(model, images[None], mode, heads=heads))
    for index in range(len(images)):
        yield jax.tree.map(lambda x, i=index: x[0, i], predictions)


def _file(folder: Path, index: int, what: str) -> Path:
    return folder / f"{index:06d}_{what}.npy"


_cameras = jax.jit(geometry.cameras_from_pose, static_argnums=(1, 2))
_unproject = jax.jit(geometry.unproject)
