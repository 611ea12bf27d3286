"""One way in: whatever `--frames` names becomes an iterator of frames."""

import glob
import logging
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Literal, Self

from ivggt_jax.sources import camera
from ivggt_jax.sources.ahead import read_ahead, read_on_request
from ivggt_jax.sources.camera import CameraReader
from ivggt_jax.sources.fit import PATCH, Size, fit_image, fit_mask, model_size, nearest_size
from ivggt_jax.sources.folder import FileReader, folder_images, glob_images, left_out
from ivggt_jax.sources.frame import Fit, Frame, RawFrame, Reader, SourceError
from ivggt_jax.sources.image_file import IMAGE_SUFFIXES, pages
from ivggt_jax.sources.lists import LIST_SUFFIXES, ImageFile, listed_images, named_images, streamed_images
from ivggt_jax.sources.masks import Masks
from ivggt_jax.sources.stack import StackReader
from ivggt_jax.sources.video import VideoReader

logger = logging.getLogger(__name__)

STILLS = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix != ".gif")
"""Endings of a single file that is a picture and not a video."""

LIVE = ("cam:", "rtsp://", "rtsps://", "udp://", "http://", "https://")
"""How the names of sources begin whose frames do not come again."""

WHOLE = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm")
"""Endings of addresses of files that are to be had as a whole, frame by frame."""

ROWS_WITHOUT_A_WORD = 0.02
"""Share of a picture's rows that is cut off and not spoken of."""

NAMES_KEPT = 20
"""Skipped frames that are named one by one; further ones are only counted."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where frames come from and how they are prepared.

    Raises SourceError when fields are out of range or contradict each other.
    """

    frames: str
    """Folder of images, image, stack, quoted pattern, list (.txt .csv), video, - (paths on stdin), cam:N, rtsp, http or udp URL"""
    mode: Literal["crop", "pad"] = "crop"
    """crop: full width, tall images lose top and bottom. pad: nothing is lost, white fills up to a square."""
    size: int | None = None
    """Width in pixels of what the model sees (pad: its side), a multiple of 14. None: 518, or the model's own."""
    stride: int = 1
    """Take every n-th frame."""
    max_frames: int | None = None
    """Stop after so many frames."""
    fps: float | None = None
    """Frames to take from each second of a video, instead of a stride."""
    start: float = 0.0
    """Where to start in a video, in seconds."""
    end: float | None = None
    """Where to end in a video, in seconds."""
    masks: Path | None = None
    """Folder of masks named like their frames (000000.png for video frames); black and transparent pixels are left out."""
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
    try:
        reader = _reader(config)
    except OSError as error:  # the name is too long, a folder on the way is not ours to look into
        raise SourceError(f"{config.frames}: cannot be opened ({error.strerror or error})") from error
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
    return str(Path(os.path.expanduser(frames)).absolute())


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
        self._masks = None if config.masks is None else Masks(config.masks, config.exif)
        self._warned_of_size = False
        self._warned_of_rows = False

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

    @property
    def left_out(self) -> int:
        """Files of a folder or pattern that look like pictures or videos, but are not read."""
        return self._reader.left_out

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
        original = picture.image
        try:
            own_size = model_size(original.size, size, self.config.mode)
            if first_size is not None and own_size != first_size:
                self._warn_of_size(raw.name, own_size, first_size)
            image, fit = fit_image(original, size, self.config.mode, first_size)
            height, width, _ = image.shape
            self._warn_of_rows(raw.name, fit, height)
            masks = [mask for mask in (picture.opaque, self._masks and self._masks.of(raw)) if mask]
            mask = fit_mask(masks, fit, height, width)
        except SourceError as error:
            raise SourceError(f"{raw.where}: {error}") from error
        return Frame(image, raw.index, raw.timestamp, raw.name, fit, mask, raw.path, picture.levels)

    def _warn_of_rows(self, name: str, fit: Fit, height: int) -> None:
        lost = 1 - height / (fit.scale[1] * fit.original_size[1])
        if lost > ROWS_WITHOUT_A_WORD and not self._warned_of_rows:
            self._warned_of_rows = True
            logger.warning(
                "%s is higher than wide: %.0f %% of its rows, at its top and bottom, are cut off, and so of others like it; "
                "--mode pad keeps them", name, 100 * lost,
            )  # fmt: skip

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
    if not config.frames:
        raise SourceError("frames is empty: name a folder of images, a video or a camera (. is this folder)")
    spec, path = config.frames, Path(os.path.expanduser(config.frames))
    plays = "://" not in spec and path.is_file() and path.suffix.lower() not in LIST_SUFFIXES
    images = pages(path) if plays and path.suffix.lower() != ".gif" else []
    if plays and not images and path.suffix.lower() not in STILLS:
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
    if len(images) > 1:
        return StackReader(path, images, config.stride, config.exif)
    files, others = _files(spec, path)
    return FileReader(files, config.stride, config.exif, spec, left_out(spec, others))


def _files(spec: str, path: Path) -> tuple[Iterable[ImageFile], Iterable[Path]]:
    """The image files that are named, and what lies beside them."""
    if spec == "-":
        return streamed_images(sys.stdin), ()
    if path.is_dir():
        return named_images(folder_images(path), path), path.iterdir()
    if path.is_file():
        is_list = path.suffix.lower() in LIST_SUFFIXES
        return listed_images(path) if is_list else named_images([path], path.parent), ()
    if path.is_fifo():
        return _piped_images(path), ()
    if glob.has_magic(spec):
        matches = map(Path, glob.iglob(str(path), recursive=True))
        return named_images(glob_images(str(path)), _fixed_part(path)), matches
    if path.exists() or path.is_symlink():
        what = "is a device" if path.exists() else f"is a link to {os.readlink(path)}, and there is no such file"
        raise SourceError(f"{spec}: {what}; name a folder, a file, or - for paths on standard input")
    raise SourceError(f"{spec}: there is no such file or folder (looked in {Path.cwd()})")


def _piped_images(pipe: Path) -> Iterator[ImageFile]:
    """Paths from a named pipe, or one that a shell made: <(ls …)."""
    with pipe.open("rb") as stream:
        yield from streamed_images(stream, str(pipe))


def _fixed_part(pattern: Path) -> Path:
    """The folder that a pattern's matches are in, as far as it is certain."""
    parts = list(takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    return Path(*parts[: len(pattern.parts) - 1])


def _at_most(length: int | None, limit: int | None) -> int | None:
    """The smaller of two numbers of which either may be unknown."""
    known = [number for number in (length, limit) if number is not None]
    return min(known, default=None)
