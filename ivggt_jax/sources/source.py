"""One way in: whatever `--frames` names becomes an iterator of frames."""

import glob
import logging
import re
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, Self

from PIL import Image

from ivggt_jax.sources import camera
from ivggt_jax.sources.ahead import read_ahead, read_on_request
from ivggt_jax.sources.camera import CameraReader
from ivggt_jax.sources.fit import PATCH, Size, fit_image, fit_mask, model_size, nearest_size
from ivggt_jax.sources.folder import FileReader, folder_images, glob_images, listed_images, streamed_images
from ivggt_jax.sources.frame import Frame, RawFrame, Reader, SourceError
from ivggt_jax.sources.image_file import IMAGE_SUFFIXES, read_mask
from ivggt_jax.sources.video import VideoReader

logger = logging.getLogger(__name__)

STILLS = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix != ".gif")
"""Endings of a single file that is a picture and not a video."""

LIVE = ("cam:", "rtsp://", "rtsps://", "udp://", "http://", "https://")
"""How the names of sources begin whose frames do not come again."""

WHOLE = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm")
"""Endings of addresses of files that are to be had as a whole, frame by frame."""

NAMES_KEPT = 20
"""Skipped frames that are named one by one; further ones are only counted."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where frames come from and how they are prepared.

    Raises SourceError when fields are out of range or contradict each other.
    """

    frames: str
    """Folder of images, image, glob pattern in quotes, list file (.txt), video, - (paths on stdin), cam:N, or rtsp://…,
    http://… (MJPEG), udp://…"""
    mode: Literal["crop", "pad"] = "crop"
    """crop: full width, tall images lose top and bottom. pad: nothing is lost, white fills up to a square."""
    size: int | None = None
    """Width in pixels of what the model sees (pad: its side), a multiple of 14. None: 518, or the model's own."""
    stride: int = 1
    """Take every n-th frame."""
    max_frames: int | None = None
    """Stop after so many frames."""
    fps: float | None = None
    """Of a video: frames to take per second, instead of a stride."""
    start: float = 0.0
    """Of a video: where to start, in seconds."""
    end: float | None = None
    """Of a video: where to end, in seconds."""
    masks: Path | None = None
    """Folder of masks named like their frames (video frames: 000000.png, …): black is ignored in the results."""
    exif: bool = True
    """Turn photographs upright by their EXIF orientation."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do at an unreadable frame: stop, or leave it out, count it and go on."""

    def __post_init__(self) -> None:
        if self.size is not None and (self.size <= 0 or self.size % PATCH):
            raise SourceError(
                f"size {self.size} must be a multiple of {PATCH}; the nearest is {nearest_size(self.size)}"
            )
        if self.mode not in ("crop", "pad"):
            raise SourceError(f"mode must be 'crop' or 'pad', not {self.mode!r}")
        if self.on_error not in ("stop", "skip"):
            raise SourceError(f"on_error must be 'stop' or 'skip', not {self.on_error!r}")
        if self.stride < 1:
            raise SourceError(f"stride must be at least 1, not {self.stride}")
        if self.max_frames is not None and self.max_frames < 1:
            raise SourceError(f"max_frames must be at least 1, not {self.max_frames}")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise SourceError(f"fps must be positive, not {self.fps}")
        if self.fps is not None and self.stride != 1:
            raise SourceError("fps and stride are two ways to thin out a video; give one of them")
        if not 0 <= self.start < float("inf"):
            raise SourceError(f"start must be 0 or more seconds, not {self.start}")
        if self.end is not None and not self.start < self.end:
            raise SourceError(f"end ({self.end} s) must come after start ({self.start} s)")


def open_source(config: SourceConfig) -> "Source":
    """Find out what `config.frames` names and check that it is there; frames are read when the source is iterated.

    Raises SourceError when there is nothing, naming it and the way out.
    """
    reader = _reader(config)
    try:
        return Source(config, reader)
    except SourceError:
        reader.close()
        raise


def full_name(frames: str) -> str:
    """What `SourceConfig.frames` names, for records: a path from the root, an address without user, password and query."""
    if "://" in frames:
        return re.sub("//[^/?#]*@", "//", frames).partition("?")[0]
    if frames == "-" or frames.startswith("cam:"):
        return frames
    return str(Path(frames).expanduser().absolute())


class Source:
    """Frames of one size, in order, from any reader. Use it in a `with` block, or close it."""

    def __init__(self, config: SourceConfig, reader: Reader):
        self.config = config
        self.skipped = 0
        """Unreadable frames left out since the last `frames()` began (`on_error="skip"`)."""
        self.skipped_names: list[str] = []
        """What was wrong with the first twenty of them."""
        self.last_skipped = -1
        """`Frame.index` that the last of them would have had."""
        self.while_waiting: Callable[[], None] = lambda: None
        """Called again and again while a camera or standard input has no next frame; what it raises ends the wait."""
        self._reader = reader
        self._masks = None if config.masks is None else _masks_by_stem(config.masks)
        self._warned_of_size = False

    @property
    def length(self) -> int | None:
        """Frames at most, where that is certain: known for image files, or by `max_frames`; None: perhaps endless."""
        return _at_most(self._reader.length, self.config.max_frames)

    @property
    def expected_length(self) -> int | None:
        """Frames to expect, for a progress bar: `length`, or a video's own claim, which can be wrong; None: unknown."""
        return _at_most(self._reader.expected_length, self.length)

    @property
    def dropped(self) -> int:
        """Frames that a camera delivered faster than they were taken."""
        return self._reader.dropped

    def frames(self, start: int = 0, last_skipped: int = -1) -> Iterator[Frame]:
        """Iterate over the frames, read up to two ahead in a thread (not from cameras and standard input).

        Args:
            start: first `Frame.index` wanted. A run that stopped after `frame` goes on with `frame.index + 1` and gets
                exactly what it would have got: `max_frames`, `fps` and the first frame's size count from the beginning.
            last_skipped: unreadable frames up to this index were counted before, and are not again.

        Raises:
            SourceError: a frame is unreadable and `on_error` is "stop"; no frame at all is readable; a camera is lost,
                or asked to start anywhere but at 0.
        """
        if start and not self._reader.resumable:
            raise SourceError(f"{self.config.frames}: a camera cannot be resumed: its frames are gone")
        frames = self._frames(start, last_skipped)
        return read_ahead(frames) if self._reader.read_ahead else frames

    def close(self) -> None:
        """Give up what the source holds open; needed for cameras, harmless otherwise."""
        self._reader.close()

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _frames(self, start: int, last_skipped: int) -> Generator[Frame, None, None]:
        self.skipped, self.skipped_names, self.last_skipped = 0, [], last_skipped
        first_size: Size | None = None
        found = self._reader.raw_frames()
        if not self._reader.read_ahead:
            found = read_on_request(found, lambda: self.while_waiting())
        for raw in islice(found, self.config.max_frames):
            if raw.index < start and first_size is not None:
                continue
            try:
                frame = self._finish(raw, first_size)
            except SourceError as error:
                if self.config.on_error == "stop":
                    raise SourceError(f"{error}; --on-error skip goes on without it") from error
                if raw.index > self.last_skipped:
                    self._count_skipped(str(error))
                    self.last_skipped = raw.index
                continue
            height, width, _ = frame.image.shape
            first_size = (width, height)
            if raw.index >= start:
                yield frame
        if first_size is None:
            raise SourceError(
                f"{self.config.frames}: none of its {self.skipped} frames can be read; the first: {self.skipped_names[0]}"
                if self.skipped
                else f"{self.config.frames}: there are no frames in it, or none between --start and --end"
            )

    def _finish(self, raw: RawFrame, first_size: Size | None) -> Frame:
        """Read a raw frame, fit it to the first one's size, and find its mask."""
        size = self.config.size or 518
        picture = raw.read()
        try:
            own_size = model_size(picture.size, size, self.config.mode)
            if first_size is not None and own_size != first_size:
                self._warn_of_size(raw.name, own_size, first_size)
            image, fit = fit_image(picture, size, self.config.mode, first_size)
            height, width, _ = image.shape
            mask = fit_mask(self._find_mask(raw.name), fit, height, width)
        except SourceError as error:
            raise SourceError(f"{raw.where}: {error}") from error
        return Frame(image, raw.index, raw.timestamp, raw.name, fit, mask, raw.path)

    def _find_mask(self, name: str) -> Image.Image | None:
        if self._masks is None or self.config.masks is None:
            return None
        path = self._masks.get(Path(name).stem)
        if path is None:
            raise SourceError(f"has no mask {self.config.masks / Path(name).stem}.png; where all counts, make it white")
        return read_mask(path, self.config.exif)

    def _warn_of_size(self, name: str, size: Size, first_size: Size) -> None:
        if not self._warned_of_size:
            self._warned_of_size = True
            logger.warning(
                "%s becomes %d×%d pixels, the first frame %d×%d: it and others like it are fitted to that on white",
                name, *size, *first_size,
            )  # fmt: skip

    def _count_skipped(self, problem: str) -> None:
        self.skipped += 1
        if len(self.skipped_names) < NAMES_KEPT:
            self.skipped_names.append(problem)
            logger.warning("skipped: %s", problem)
        elif self.skipped == NAMES_KEPT + 1:
            logger.warning("more unreadable frames are skipped; they are counted, not named")


def _reader(config: SourceConfig) -> Reader:
    """The reader for what `config.frames` names."""
    spec, path = config.frames, Path(config.frames).expanduser()
    files = partial(FileReader, stride=config.stride, exif=config.exif)
    if "://" not in spec and path.is_file() and path.suffix.lower() not in STILLS and path.suffix.lower() != ".txt":
        return VideoReader(path, config.stride, config.fps, config.start, config.end)
    if config.fps is not None or config.start or config.end is not None:
        raise SourceError(f"{spec}: --fps, --start and --end are for video files; use --stride and --max-frames")
    if spec.startswith("http") and spec.partition("?")[0].lower().endswith(WHOLE):
        raise SourceError(f"{spec}: of http only live pictures (MJPEG) are read; download the file and name it")
    if spec.startswith(LIVE):
        reopen = partial(camera.open_capture, spec)
        return CameraReader(full_name(spec), reopen(), config.stride, reopen=reopen)
    if "://" in spec:
        raise SourceError(f"{spec}: of addresses only rtsp://, http:// (MJPEG) and udp:// are read")
    if spec == "-":
        return files(streamed_images(sys.stdin))
    if path.is_dir():
        return files(folder_images(path))
    if path.is_file():
        return files(listed_images(path) if path.suffix.lower() == ".txt" else [path])
    if glob.has_magic(spec):
        return files(glob_images(str(path)))
    raise SourceError(f"{spec}: there is no such file or folder (looked in {Path.cwd()})")


def _masks_by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise SourceError(f"{folder}: there is no such folder of masks")
    return {path.stem: path for path in folder_images(folder)}


def _at_most(length: int | None, limit: int | None) -> int | None:
    """The smaller of two numbers of which either may be unknown."""
    known = [number for number in (length, limit) if number is not None]
    return min(known, default=None)
