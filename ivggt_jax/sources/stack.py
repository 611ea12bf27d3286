"""An image file with many pictures as a source: TIFF stacks, animated WebP, PNG and AVIF."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ivggt_jax.sources.frame import Picture, RawFrame, SourceError
from ivggt_jax.sources.image_file import FORMATS, decode, grey_16_of, reason, to_picture
from ivggt_jax.sources.levels import FIRST, Stretch


class StackReader:
    """Reads the pages of one file once, in order. Animations have times from their pictures' durations."""

    resumable = True
    read_ahead = True
    dropped = 0
    left_out = 0

    def __init__(self, path: Path, pages: list[int], stride: int = 1, exif: bool = True):
        """pages: pages of the file that are frames, counted from 0."""
        self._path, self._pages, self._stride, self._exif = path, pages, stride, exif
        self.length = -(-len(pages) // stride)
        self.expected_length = self.length
        self._stretch = Stretch(str(path), self._first_grey)

    def raw_frames(self) -> Iterator[RawFrame]:
        """One raw frame for every stride-th page; a damaged one raises when it is read."""
        seconds: float | None = 0.0
        with Image.open(self._path, formats=FORMATS) as image:
            for index, page in enumerate(self._pages):
                chosen, where = index % self._stride == 0, f"{self._path}, picture {index}"
                result: Image.Image | str = image
                if chosen or image.format != "TIFF":  # pictures of an animation depend on the previous ones
                    try:
                        decode(image, page, self._exif)
                    except Exception as error:  # decoders raise almost anything on a damaged file
                        result = reason(error)
                shown = image.info.get("duration")
                now, seconds = seconds, None if seconds is None or shown is None else seconds + shown / 1000
                if chosen:
                    time = None if shown is None else now
                    yield RawFrame(index, time, f"{index:06d}", where, partial(self._read, result, where))

    def close(self) -> None:
        """Nothing is held open outside `raw_frames`."""

    def _read(self, result: Image.Image | str, where: str) -> Picture:
        if isinstance(result, str):
            raise SourceError(f"{where}: is damaged or truncated ({result})")
        try:
            return to_picture(result.copy(), self._exif, self._stretch)
        except SourceError as error:
            raise SourceError(f"{where}: {error}") from None

    def _first_grey(self) -> Iterator[np.ndarray]:
        found = (grey_16_of(self._path, page) for page in self._pages[: FIRST * self._stride : self._stride])
        return (values for values in found if values is not None)
