"""The records that sources hand on: a frame, and how its original became the model's input."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from ivggt_jax.cameras.known import KnownCamera

LARGEST_IMAGE = 134_217_728
"""Pixels (16,384 × 8,192): an image or video that claims more is refused before memory is taken for it."""


Levels = tuple[float, float]
"""Values of a 16-bit grey picture that become black and white."""


class SourceError(ValueError):
    """Frames cannot be had: the message names the file or device, what is wrong with it, and the way out."""


@dataclass(frozen=True)
class Fit:
    """How the original image became the model's input: model = scale · original + offset.

    Coordinates are continuous and corner-based: the centre of pixel (column, row) is (column + 0.5, row + 0.5).
    """

    original_size: tuple[int, int]
    """Width and height of the original in pixels, after its EXIF or video orientation was applied."""
    scale: tuple[float, float]
    """Model pixels per original pixel, x and y."""
    offset: tuple[float, float]
    """Where the original's top left corner lies in the model's input, x and y; negative where it was cropped."""

    def intrinsics_to_original(self, intrinsics: np.ndarray) -> np.ndarray:
        """Undo resize, crop and pad on a camera matrix.

        Args:
            intrinsics: [3,3], in model pixels; pixel (u, v) is the integer index, so its centre has coordinate (u, v).

        Returns:
            float64 [3,3] in pixels of the original, by the same convention (add 0.5 to the principal point for COLMAP).
        """
        original_from_model = np.eye(3)
        for axis in (0, 1):
            original_from_model[axis, axis] = 1 / self.scale[axis]
            original_from_model[axis, 2] = (0.5 - self.offset[axis]) / self.scale[axis] - 0.5
        return original_from_model @ np.asarray(intrinsics, np.float64)


@dataclass(frozen=True)
class Picture:
    """A picture as it was read: upright, with square pixels."""

    image: Image.Image
    """RGB, transparency on white."""
    opaque: Image.Image | None = None
    """Mode L, of the same size: 0 where alpha is 0, 255 elsewhere; None where nothing is transparent."""
    levels: Levels | None = None
    """What became black and white, of a 16-bit grey picture that was stretched."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame, ready for the model."""

    image: np.ndarray
    """uint8 [H,W,3], the model's input; every frame of a source has the same H and W, multiples of 14."""
    index: int
    """Position in the source, counted from 0 before any stride."""
    timestamp: float | None
    """Seconds, where the source has them: presentation time of a video, Unix time of a camera, or the time that image
    files are named by or listed with."""
    name: str
    """Path of the file within the source (cam0/0.jpg), or frame number in six digits, for people and for finding the mask."""
    fit: Fit
    mask: np.ndarray | None = None
    """bool [H,W]; False: ignore this pixel (masked by the user, transparent, or white padding). None: every pixel counts."""
    path: Path | None = None
    """The image file that was read; None for a frame of a video, a stack or a camera."""
    levels: Levels | None = None
    """As in `Picture`: how to read the file as the model saw it."""
    camera: KnownCamera | None = None
    """Of a calibrated camera: then the image is undistorted, and `fit` is of the undistorted picture."""
    depth: np.ndarray | None = None
    """float32 [H,W] in metres, z in the camera, as a sensor measured it; NaN where it says nothing."""


@dataclass(frozen=True)
class RawFrame:
    """A frame that was found but not read yet, so that passing over it costs little."""

    index: int
    timestamp: float | None
    name: str
    """As in `Frame`."""
    where: str
    """File, or video or camera and frame number, for error messages."""
    read: Callable[[], Picture]
    """Gives the picture, or raises SourceError. To be called before the next raw frame is asked for."""
    path: Path | None = None
    """As in `Frame`."""
    depth: Callable[[], np.ndarray] | None = None
    """Gives a sensor's metres float32 [h,w], registered to the picture, NaN where there are none, or raises SourceError. Of a
    recording that holds depth for this frame."""


@dataclass(frozen=True)
class Mark:
    """A frame that was read, so that it is found again in the middle of its source."""

    index: int
    """`Frame.index`"""
    timestamp: float | None
    """`Frame.timestamp`"""
    count: int
    """Frames before it."""
    size: tuple[int, int]
    """Width and height of all frames."""
    checksum: int
    """Of its pixels."""

    @classmethod
    def of(cls, frame: "Frame", count: int) -> "Mark":
        """The mark of a frame after `count` others."""
        height, width, _ = frame.image.shape
        return cls(frame.index, frame.timestamp, count, (width, height), zlib.crc32(frame.image.tobytes()))


class Reader(Protocol):
    """What a kind of source (image files, a video, a camera) must offer."""

    @property
    def length(self) -> int | None:
        """Raw frames at most, where that is certain before the first; None otherwise."""

    @property
    def expected_length(self) -> int | None:
        """Raw frames to expect: `length`, or an estimate for a progress bar."""

    @property
    def dropped(self) -> int:
        """Frames so far that a live source delivered faster than they were taken."""

    @property
    def left_out(self) -> int:
        """Files beside the frames that look like pictures or videos and are not read."""

    @property
    def read_ahead(self) -> bool:
        """Whether frames may be read before they are asked for (not when that would wait for a camera or a person)."""

    @property
    def resumable(self) -> bool:
        """Whether the same frames come again when the source is read again."""

    def raw_frames(self) -> Iterator[RawFrame]:
        """Raw frames in order, the stride applied."""

    def close(self) -> None:
        """Give up what the source holds open."""


@runtime_checkable
class Seekable(Protocol):
    """A reader that need not go through what comes before a frame."""

    def raw_frames_from(self, mark: Mark) -> Iterator[RawFrame]:
        """As `raw_frames`, from a frame on that was read before. Where that cannot be found, others come."""
