"""The records that sources return: a frame, and the transform from its original to the model's input."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from ivggt_jax.cameras.known import KnownCamera

LARGEST_IMAGE = 134_217_728
"""Most pixels (16,384 × 8,192) of an image or video; more are rejected before memory is allocated."""


Levels = tuple[float, float]
"""Values of a 16-bit grey picture that are mapped to black and white."""


class SourceError(ValueError):
    """Frames cannot be read; the message names the file or device, the fault, and the remedy."""


@dataclass(frozen=True)
class Fit:
    """The transform from the original image to the model's input: model = scale · original + offset.

    Coordinates are continuous and corner-based: the centre of pixel (column, row) is (column + 0.5, row + 0.5).
    """

    original_size: tuple[int, int]
    """Width and height of the original in pixels, after applying its EXIF or video orientation."""
    scale: tuple[float, float]
    """Model pixels per original pixel, x and y."""
    offset: tuple[float, float]
    """Position of the original's top left corner in the model's input, x and y; negative where it was cropped."""

    def intrinsics_to_original(self, intrinsics: np.ndarray) -> np.ndarray:
        """Undo resize, crop and pad in a camera matrix.

        Args:
            intrinsics: [3,3], in model pixels, with pixel centres at integers.

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
    """A decoded picture: upright, with square pixels."""

    image: Image.Image
    """RGB; transparent parts are on white."""
    opaque: Image.Image | None = None
    """Mode L, of the same size: 0 where alpha is 0, 255 elsewhere; None if nothing is transparent."""
    levels: Levels | None = None
    """The values mapped to black and white, for a 16-bit grey picture that was stretched."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame, ready for the model."""

    image: np.ndarray
    """uint8 [H,W,3], the model's input; all frames of a source have the same H and W, multiples of 14."""
    index: int
    """Position in the source, counted from 0, before any stride."""
    timestamp: float | None
    """In seconds, if the source has times: presentation time of a video, Unix time of a camera, or the time in an image's file
    name or in a list."""
    name: str
    """Path of the file within the source (cam0/0.jpg), or six-digit frame number; for people, and for matching masks."""
    fit: Fit
    mask: np.ndarray | None = None
    """bool [H,W]; False: ignore this pixel (masked by the user, transparent, or white padding). None: all pixels count."""
    path: Path | None = None
    """The image file; None for a frame of a video, a stack or a camera."""
    levels: Levels | None = None
    """As in `Picture`; needed to read the file as the model saw it."""
    camera: KnownCamera | None = None
    """The camera, if calibrated; the image is then undistorted, and `fit` is that of the undistorted picture."""
    depth: np.ndarray | None = None
    """float32 [H,W] in metres, z in the camera, measured by a sensor; NaN where not measured."""


@dataclass(frozen=True)
class RawFrame:
    """A frame that was found but not decoded yet, so that skipping it is cheap."""

    index: int
    timestamp: float | None
    name: str
    """As in `Frame`."""
    where: str
    """File, or video or camera with frame number, for error messages."""
    read: Callable[[], Picture]
    """Returns the picture, or raises SourceError. Call it before requesting the next raw frame."""
    path: Path | None = None
    """As in `Frame`."""
    depth: Callable[[], np.ndarray] | None = None
    """Returns measured depth in metres, float32 [h,w], registered to the picture, NaN where missing, or raises SourceError. Only
    for frames of a recording that contains their depth."""


@dataclass(frozen=True)
class Mark:
    """Identifies a frame, to find it again in the middle of its source."""

    index: int
    """`Frame.index`"""
    timestamp: float | None
    """`Frame.timestamp`"""
    count: int
    """Number of frames before it."""
    size: tuple[int, int]
    """Width and height of all frames."""
    checksum: int
    """Checksum of its pixels."""

    @classmethod
    def of(cls, frame: "Frame", count: int) -> "Mark":
        """The mark of a frame after `count` others."""
        height, width, _ = frame.image.shape
        return cls(frame.index, frame.timestamp, count, (width, height), zlib.crc32(frame.image.tobytes()))


class Reader(Protocol):
    """The interface of a kind of source (image files, a video, a camera)."""

    @property
    def length(self) -> int | None:
        """Largest number of raw frames, if it is certain beforehand; otherwise None."""

    @property
    def expected_length(self) -> int | None:
        """Expected number of raw frames: `length`, or an estimate for a progress bar."""

    @property
    def dropped(self) -> int:
        """Number of frames so far that a live source delivered faster than they were taken."""

    @property
    def left_out(self) -> int:
        """Number of files next to the frames that look like pictures or videos but are not read."""

    @property
    def read_ahead(self) -> bool:
        """Whether frames may be read before they are requested; not if that would wait for a camera or a person."""

    @property
    def resumable(self) -> bool:
        """Whether the source gives the same frames when read again."""

    def raw_frames(self) -> Iterator[RawFrame]:
        """Raw frames in order, after applying the stride."""

    def close(self) -> None:
        """Release whatever the source holds open."""


@runtime_checkable
class Seekable(Protocol):
    """A reader that can start at a frame without reading what comes before."""

    def raw_frames_from(self, mark: Mark) -> Iterator[RawFrame]:
        """Like `raw_frames`, starting at a frame that was read before. If that cannot be found, it starts elsewhere."""
