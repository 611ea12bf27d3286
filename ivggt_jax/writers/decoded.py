"""Full-size pictures of frames that have no file of their own: their video, recording or animation is decoded again.

The source is read as in the run, by the same reader with the same stride, rate and start, so that a picture is turned, resampled
to square pixels and tone-mapped like the model's input. It belongs to the frame only if its time is the saved one and if, fitted
to the model's input, it equals the saved image. One picture is in memory at a time.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ivggt_jax.sources.config import SourceConfig, is_live
from ivggt_jax.sources.fit import fit_image
from ivggt_jax.sources.frame import Frame, RawFrame, SourceError
from ivggt_jax.sources.source import open_reader
from ivggt_jax.writers.run_json import read_run_json, recorded

logger = logging.getLogger(__name__)

READ = ("frames", "mode", "stride", "fps", "start", "end", "topic", "exif")
"""Options that determine which frames a source gives, and how they are fitted."""
SAME_TIME = 1e-6
"""Tolerance in seconds for equal times."""
SAME_IMAGE = 1.0
"""Mean difference of grey values (of 255) up to which two images are equal; another release of a library may scale
differently."""


def recorded_source(out: Path) -> SourceConfig | None:
    """The source of the run in a folder, from its `run.json`; None if it is unknown, or cannot be read again."""
    try:
        settings = recorded(read_run_json(out), "settings", "source")
        # A recording's depth topic must not be taken for one of pictures.
        depth = None if settings["depth"] is None else Path(settings["depth"])
        source = SourceConfig(depth=depth, **{name: settings[name] for name in READ})
    except (OSError, ValueError, TypeError, KeyError):  # no run.json, or one of another release
        return None
    return source


class Decoded:
    """The pictures of a run's frames, requested in the order of the run."""

    def __init__(self, source: SourceConfig | None):
        """source: of the run; None if unknown."""
        self._source = None if source is None or is_live(source.frames) else source
        self._raw: Iterator[RawFrame] | None = None
        self._next: RawFrame | None = None

    def picture(self, frame: Frame) -> Image.Image | None:
        """The upright picture that the frame was made from; None if it is not available any more.

        The first missing one is reported, and no more are searched.
        """
        if self._source is None:
            return None
        try:
            with _quietly():
                return self._find(self._source, frame)
        except (SourceError, OSError) as error:
            height, width, _ = frame.image.shape
            logger.warning(
                "%s: frames from %s on are written as the model saw them, %d×%d pixels",
                error,
                frame.name,
                width,
                height,
            )
            self._source = None
            return None

    def _find(self, source: SourceConfig, frame: Frame) -> Image.Image:
        """The picture. Raises SourceError when the source is gone or has changed."""
        if self._raw is None:
            self._raw = open_reader(source).raw_frames()
        while self._next is None or self._next.index < frame.index:
            self._next = next(self._raw, None)
            if self._next is None:
                raise SourceError(f"{source.frames}: has fewer frames than the run read")
        raw = self._next
        picture = raw.read().image if raw.index == frame.index and _same_time(raw, frame) else None
        if picture is None or not _is_of(frame, picture, source):
            raise SourceError(f"{source.frames}: is not what the run read")
        return picture


def _same_time(raw: RawFrame, frame: Frame) -> bool:
    if raw.timestamp is None or frame.timestamp is None:
        return raw.timestamp is frame.timestamp
    return abs(raw.timestamp - frame.timestamp) <= SAME_TIME


def _is_of(frame: Frame, picture: Image.Image, source: SourceConfig) -> bool:
    """Whether the frame was made from the picture. For a calibrated camera, whose frames are undistorted, only sizes count."""
    if frame.camera is not None:
        return picture.size == frame.camera.original.size
    height, width, _ = frame.image.shape
    image, fit = fit_image(picture, width, source.mode, (width, height))
    return fit == frame.fit and float(np.abs(np.subtract(image, frame.image, dtype=np.int16)).mean()) <= SAME_IMAGE


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress messages about the file, which the run already printed."""
    sources = logging.getLogger("ivggt_jax.sources")
    level = sources.level
    sources.setLevel(logging.ERROR)
    try:
        yield
    finally:
        sources.setLevel(level)
