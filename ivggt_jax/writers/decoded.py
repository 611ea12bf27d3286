"""Full-size pictures of frames that have no file of their own: their video, recording or animation is decoded once more.

The source is read as the run read it, by the same reader with the same stride, rate and beginning, so that a picture is turned,
has square pixels and is tone-mapped as the model's input was. It is the frame's only if its time is the one that the run
saved and if, fitted to the model's input, it is the image that the run saved. One picture is in memory at a time.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ivggt_jax.sources.config import SourceConfig
from ivggt_jax.sources.fit import fit_image
from ivggt_jax.sources.frame import Frame, RawFrame, SourceError
from ivggt_jax.sources.source import LIVE, open_reader
from ivggt_jax.writers.run_json import read_run_json, recorded

logger = logging.getLogger(__name__)

READ = ("frames", "mode", "stride", "fps", "start", "end", "topic", "exif")
"""Options that decide which frames a source gives, and how they are fitted."""
SAME_TIME = 1e-6
"""Seconds by which equal times may differ."""
SAME_IMAGE = 1.0
"""Mean difference of grey values (of 255) up to which two images are one, scaled by another release of a library perhaps."""


def recorded_source(out: Path) -> SourceConfig | None:
    """What the run in a folder read, by its `run.json`; None where that is not known, or its frames do not come again."""
    try:
        settings = recorded(read_run_json(out), "settings", "source")
        # A recording's topic of depth is none of pictures.
        depth = None if settings["depth"] is None else Path(settings["depth"])
        source = SourceConfig(depth=depth, **{name: settings[name] for name in READ})
    except (OSError, ValueError, TypeError, KeyError):  # no run.json, or not one of this release
        return None
    return source


class Decoded:
    """The pictures of a run's frames, asked for in the order of the run."""

    def __init__(self, source: SourceConfig | None):
        """source: what the run read; None where nobody knows."""
        self._source = None if source is None or source.frames.startswith(LIVE) else source
        self._raw: Iterator[RawFrame] | None = None
        self._next: RawFrame | None = None

    def picture(self, frame: Frame) -> Image.Image | None:
        """The picture that the frame was made from, upright; None where it cannot be had any more.

        The first time that one is not there, a line says so, and no more are looked for.
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
        """The picture. Raises SourceError where the source is gone or another one."""
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
    """Whether the frame was made from the picture. Of a calibrated camera, whose frames are undistorted, only the size tells."""
    if frame.camera is not None:
        return picture.size == frame.camera.original.size
    height, width, _ = frame.image.shape
    image, fit = fit_image(picture, width, source.mode, (width, height))
    return fit == frame.fit and float(np.abs(np.subtract(image, frame.image, dtype=np.int16)).mean()) <= SAME_IMAGE


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the source says of its file: the run said it."""
    sources = logging.getLogger("ivggt_jax.sources")
    level = sources.level
    sources.setLevel(logging.ERROR)
    try:
        yield
    finally:
        sources.setLevel(level)
