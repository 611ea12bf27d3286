"""Pictures of a frame for a page: with tracks, and at the source's full size."""

import base64
import io
import threading
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ivggt_jax.sources.frame import SourceError
from ivggt_jax.sources.image_file import read_image
from ivggt_jax.writers.decoded import Decoded, recorded_source
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.saved_run import read_result
from ivggt_jax.writers.trails import LENGTH, Trails

ENLARGED = 480
"""Shorter side in pixels of the picture that tracks are drawn on, so that they stay thin."""


class FullSize:
    """Finds the original pictures of frames: files in place, videos by decoding them again."""

    def __init__(self, run: Path):
        self._run = run
        self._decoded: Decoded | None = None
        self._last = -1
        self._lock = threading.Lock()  # pages may ask at the same time

    def picture(self, result: Result) -> Image.Image:
        """The upright original; the model's input if that is gone, or if its video is not recorded before the run's end."""
        frame = result.frame
        if frame.path is not None:
            try:
                source = recorded_source(self._run)
                return read_image(frame.path, exif=source is None or source.exif, levels=frame.levels)
            except (SourceError, OSError):
                return Image.fromarray(frame.image)
        with self._lock:
            if self._decoded is None or frame.index < self._last:  # a video can only be read forwards
                if (source := recorded_source(self._run)) is None:  # perhaps the run goes on
                    return Image.fromarray(frame.image)
                self._decoded = Decoded(source)
            self._last = frame.index
            return self._decoded.picture(frame) or Image.fromarray(frame.image)


def large(picture: Image.Image) -> str:
    """The picture as HTML for a window of the page, which it makes as wide as the page."""
    jpeg = io.BytesIO()
    picture.convert("RGB").save(jpeg, "JPEG", quality=92)
    data = base64.b64encode(jpeg.getvalue()).decode()
    wide = "<style>.mantine-Modal-content { flex: 0 1 auto !important; max-width: 96vw }</style>"
    return f'{wide}<img src="data:image/jpeg;base64,{data}" style="max-width: 100%; display: block; margin: auto">'


def with_tracks(result: Result, before: Sequence[Path]) -> Image.Image:
    """The frame as the model saw it, with its tracks, if any, and their trails through the frames `before`, given as files."""
    image = Image.fromarray(result.frame.image)
    if result.tracks is None:
        return image
    trails = Trails()
    for path in before[-LENGTH + 1 :]:
        trails.add(read_result(path, maps=False))
    trails.add(result)
    width = image.width
    factor = max(1, -(-ENLARGED // min(image.size)))
    image = image.resize((factor * width, factor * image.height), Image.Resampling.BICUBIC)
    trails.draw(image, width)
    return image
