"""What a model predicts of a data set's sequence: cameras in memory, depth and points in files, however long it is."""

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
from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.sources.fit import fit_image
from ivggt_jax.sources.frame import Fit
from ivggt_jax.sources.image_file import read_image
from ivggt_jax.streaming.steps import infer_clip, stream

Mode = Literal["stream", "causal", "offline"]
"""`stream`: frame by frame against the cache; `causal` and `offline`: the sequence at once, each frame with those before
it (StreamVGGT) or with all (VGGT), in memory that grows with it."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions of a sequence of S frames."""

    cam_from_world: np.ndarray
    """float64 [S,3,4]"""
    intrinsics: np.ndarray
    """float64 [S,3,3], pixels of the model's input."""
    fits: tuple[Fit, ...]
    """How each image became the model's input."""
    folder: Path
    """Where depth and points are, a file for each frame."""

    def depth(self, index: int) -> np.ndarray:
        """float32 [H,W]"""
        return np.load(_file(self.folder, index, "depth"))

    def points(self, index: int) -> np.ndarray:
        """From the point head: float32 [H,W,3] in the first camera's frame."""
        return np.load(_file(self.folder, index, "points"))

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
) -> Predicted:
    """Runs the model over all frames of a sequence, with `heads` beside the camera, images `size` pixels wide.

    All frames are brought to the first one's shape. Raises ValueError, naming the file, for an image that cannot be read.
    """
    fits: list[Fit] = []
    images = _images(sequence, size, fits)
    wanted: tuple[HeadName, ...] = ("camera", *heads)
    cameras, intrinsics = [], []
    first = next(images)
    height, width = first.shape[:2]
    predictions = (
        stream(model, chain([first], images), cache, heads=wanted)
        if mode == "stream"
        else _at_once(model, np.stack([first, *images]), mode, wanted)
    )
    for index, found in enumerate(predictions):
        camera, matrix = _cameras(found.pose_encoding, height, width)
        cameras.append(np.asarray(camera, np.float64))
        intrinsics.append(np.asarray(matrix, np.float64))
        for head in heads:
            np.save(_file(folder, index, head), getattr(found, head))
    return Predicted(np.stack(cameras), np.stack(intrinsics), tuple(fits), folder)


def _images(sequence: Sequence, size: int, fits: list[Fit]) -> Iterator[np.ndarray]:
    """uint8 [H,W,3] frame by frame; how each was fitted goes into `fits`."""
    like = None
    for path in sequence.images:
        image, fit = fit_image(read_image(path), size, "crop", like)
        like = (image.shape[1], image.shape[0])
        fits.append(fit)
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
