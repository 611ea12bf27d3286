"""The single entry point: turns whatever `--frames` names into an iterator of frames."""

import logging
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from ivggt_jax.cameras.known import KnownCamera
from ivggt_jax.sources import camera
from ivggt_jax.sources.ahead import read_ahead, read_on_request
from ivggt_jax.sources.calibrated import Calibration, View
from ivggt_jax.sources.camera import CameraReader
from ivggt_jax.sources.config import SourceConfig, is_live
from ivggt_jax.sources.depths import Depths, fit_depth
from ivggt_jax.sources.fit import Size, fit_image, fit_mask, model_size, plan_fit
from ivggt_jax.sources.folder import FileReader, find_images, left_out
from ivggt_jax.sources.frame import Fit, Frame, Mark, Picture, RawFrame, Reader, Seekable, SourceError
from ivggt_jax.sources.image_file import IMAGE_SUFFIXES, pages
from ivggt_jax.sources.lists import LIST_SUFFIXES
from ivggt_jax.sources.masks import Masks
from ivggt_jax.sources.misnamed import misnamed
from ivggt_jax.sources.recorded_depth import check_recorded
from ivggt_jax.sources.recording import RecordingReader, is_recording
from ivggt_jax.sources.stack import StackReader
from ivggt_jax.sources.video import JPEG_AFTER_JPEG, VideoReader

logger = logging.getLogger(__name__)

STILLS = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix != ".gif")
"""Suffixes of a single file that is a picture, not a video."""

WHOLE = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm")
"""Suffixes of addresses of files that can be read completely, frame by frame."""

ROWS_WITHOUT_A_WORD = 0.02
"""Share of a picture's rows that may be cropped without a message."""

NAMES_KEPT = 20
"""Number of skipped frames that are named; the rest are only counted."""


def open_source(config: SourceConfig) -> "Source":
    """Determine what `config.frames` names and check that it exists; frames are read when the source is iterated.

    Raises SourceError when it does not exist, naming it and the remedy.
    """
    try:
        reader = open_reader(config)
    except OSError as error:  # the name is too long, or a folder on the way is not accessible
        raise SourceError(f"{config.frames}: cannot be opened ({error.strerror or error})") from error
    try:
        return Source(config, reader)
    except SourceError:
        reader.close()
        raise


def full_name(frames: str) -> str:
    """`SourceConfig.frames` for records: an absolute path, or an address without user, password and query."""
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
        """Unreadable frames skipped since the last `frames()` began (`on_error="skip"`)."""
        self.skipped_names: list[str] = []
        """Names and errors of the first twenty of them."""
        self.last_skipped = -1
        """Index of the last of them, counting pictures: each may be several frames of a panorama."""
        self.while_waiting: Callable[[], None] = lambda: None
        """Called repeatedly while a camera or standard input has no next frame; an exception from it ends the wait."""
        self._reader = reader
        self._masks = None if config.masks is None else Masks(config.masks, config.exif)
        self._calibration = (
            None if config.camera is None else Calibration(config.camera, config.camera_fov, config.camera_towards)
        )
        self._depths = (
            Depths(config.depth, config.depth_scale, config.exif)
            if config.depth is not None and depth_topic(config) is None
            else None
        )
        if config.depth is not None:
            self._check_depths(config.depth)
        self._views = 1 if self._calibration is None else self._calibration.views
        self._warned_of_size = False
        self._warned_of_rows = False

    @property
    def length(self) -> int | None:
        """Largest number of frames, if it is certain: for image files, or by `max_frames`; None: may be endless."""
        length = _at_most(self._reader.length, self.config.max_frames)
        return None if length is None else length * self._views

    @property
    def expected_length(self) -> int | None:
        """Expected number of frames, for a progress bar: `length`, or a video's own claim, which can be wrong; None: unknown."""
        expected = self._reader.expected_length
        return _at_most(None if expected is None else expected * self._views, self.length)

    @property
    def dropped(self) -> int:
        """Number of frames that a camera delivered faster than they were taken."""
        return self._reader.dropped

    @property
    def left_out(self) -> int:
        """Number of files of a folder or pattern that look like pictures or videos but are not read."""
        return self._reader.left_out

    def frames(self, start: int = 0, last_skipped: int = -1) -> Iterator[Frame]:
        """Iterate over the frames, read up to two ahead in a thread (not from cameras and standard input).

        Args:
            start: first `Frame.index` wanted. A run that stopped after `frame` resumes at `frame.index + 1` and gets exactly
                the same frames: `max_frames`, `fps` and the first frame's size count from the beginning.
            last_skipped: unreadable frames up to this index were counted before and are not counted again.

        Raises:
            SourceError: a frame is unreadable and `on_error` is "stop"; no frame is readable; a camera is lost, or asked to
                start anywhere but at 0.
        """
        if start and not self._reader.resumable:
            raise SourceError(f"{self.config.frames}: a camera cannot be resumed: its frames are gone")
        self.skipped, self.skipped_names, self.last_skipped = 0, [], last_skipped
        found = self._reader.raw_frames()
        if not self._reader.read_ahead:
            return self._frames(read_on_request(found, lambda: self.while_waiting()), start)
        return read_ahead(self._frames(found, start))

    def from_next_picture(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """The rest of `frames`, without further views of a panorama of which some were taken before."""
        return dropwhile(lambda frame: frame.index % self._views > 0, frames)

    @property
    def seekable(self) -> bool:
        """Whether `frames_from` finds a frame without reading all frames before it."""
        return self._reader.read_ahead and isinstance(self._reader, Seekable)

    def frames_from(self, mark: Mark) -> Iterator[Frame]:
        """Like `frames`, starting at a frame that was read before. Frames before it are only read if nothing else helps.

        Raises SourceError when it is not there any more.
        """
        if isinstance(self._reader, Seekable):
            with suppress(SourceError):  # raised where the file can only be read from its beginning
                if (found := self._with_mark(self._reader.raw_frames_from(mark), mark, mark.count)) is not None:
                    return found
        found = self._with_mark(self._reader.raw_frames(), mark, 0)
        if found is None:
            raise SourceError(f"{self.config.frames}: frame {mark.index} is not what it was when it was first read")
        return found

    def _with_mark(self, raw: Iterator[RawFrame], mark: Mark, count: int) -> Iterator[Frame] | None:
        """The frames from the mark on, given raw frames after `count` others; None if the mark is not the first of them."""
        frames = read_ahead(self._frames(raw, mark.index, count, mark.size))
        first = next(frames, None)
        if first is None or Mark.of(first, mark.count) != mark:
            frames.close()
            return None
        return chain([first], frames)

    def close(self) -> None:
        """Release whatever the source holds open; needed for cameras, harmless otherwise."""
        self._reader.close()

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _frames(
        self, found: Iterator[RawFrame], start: int, count: int = 0, first_size: Size | None = None
    ) -> Generator[Frame, None, None]:
        """The frames from `start` on, given raw frames with `count` others before them, all of the first one's size."""
        most = self.config.max_frames
        for raw in islice(found, None if most is None else most - count):
            if (raw.index + 1) * self._views <= start and first_size is not None:
                continue
            try:
                frames = self._finish(raw, first_size)
            except SourceError as error:
                if self.config.on_error == "stop":
                    raise SourceError(f"{error}; --on-error skip goes on without it") from error
                if raw.index > self.last_skipped:
                    self._count_skipped(str(error))
                    self.last_skipped = raw.index
                continue
            height, width, _ = frames[0].image.shape
            first_size = (width, height)
            yield from (frame for frame in frames if frame.index >= start)
        if first_size is None:
            seconds = self._reader.seconds if isinstance(self._reader, VideoReader) else None
            length = "" if seconds is None else f"; the video is {seconds:.3g} s long"
            raise SourceError(
                f"{self.config.frames}: none of its {self.skipped} frames can be read; the first: {self.skipped_names[0]}"
                if self.skipped
                else f"{self.config.frames}: there are no frames in it, or none between --start and --end{length}"
            )

    def _finish(self, raw: RawFrame, first_size: Size | None) -> list[Frame]:
        """Read a raw frame, undistort it, fit it to the first one's size, and find its mask; for panoramas a frame per view."""
        picture = raw.read()
        try:
            masks = [] if self._masks is None else [self._masks.of(raw)]
            views = self._undistorted(picture, masks, first_size)
            return [self._fitted(raw, number, view, first_size) for number, view in enumerate(views)]
        except SourceError as error:
            raise SourceError(f"{raw.where}: {error}") from error

    def _undistorted(self, picture: Picture, masks: list[Image.Image], first_size: Size | None) -> list[View]:
        if self._calibration is None:
            return [View(picture, tuple(masks))]
        return self._calibration.of(
            picture, masks, lambda size: plan_fit(size, self._size, self.config.mode, first_size)
        )

    def _fitted(self, raw: RawFrame, number: int, view: View, first_size: Size | None) -> Frame:
        """The frame of one view."""
        picture, name = view.picture, raw.name + view.suffix
        own_size = model_size(picture.image.size, self._size, self.config.mode)
        if first_size is not None and own_size != first_size:
            self._warn_of_size(name, own_size, first_size)
        image, fit = fit_image(picture.image, self._size, self.config.mode, first_size)
        height, width, _ = image.shape
        self._warn_of_rows(name, fit, height)
        masks = [mask for mask in (picture.opaque, *view.masks) if mask]
        mask = fit_mask(masks, fit, height, width)
        index = raw.index * self._views + number
        depth = None if self.config.depth is None else self._depth(raw, fit, height, width, view.camera)
        return Frame(image, index, raw.timestamp, name, fit, mask, raw.path, picture.levels, view.camera, depth)

    def _check_depths(self, where: Path) -> None:
        if not self._reader.resumable:
            raise SourceError("a live source has no depth maps beforehand: --depth is for recordings")
        if self._calibration is not None and self._calibration.panorama:
            raise SourceError(
                "depth maps are for cameras, not for panoramas: leave --depth or --camera equirectangular out"
            )
        if self._depths is None:
            check_recorded(self._reader.raw_frames(), where)
        elif self._reader.length is not None:
            self._depths.check(self._reader.raw_frames())

    def _depth(self, raw: RawFrame, fit: Fit, height: int, width: int, camera: KnownCamera | None) -> np.ndarray:
        """Depth in metres [H,W]; NaN where not measured, and everywhere if a frame has no map."""
        where: str | Path | None = raw.where if raw.depth else None
        read = raw.depth
        if self._depths is not None and (path := self._depths.path_of(raw)) is not None:
            where, read = path, partial(self._depths.read, path)
        if read is None:
            return np.full((height, width), np.nan, np.float32)
        try:
            return fit_depth(read(), fit, height, width, camera)
        except SourceError as error:
            raise SourceError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None

    @property
    def _size(self) -> int:
        return self.config.size or 518

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


def open_reader(config: SourceConfig) -> Reader:
    """The reader for what `config.frames` names. Raises SourceError or OSError when there is nothing."""
    if not config.frames:
        raise SourceError("frames is empty: name a folder of images, a video or a camera (. is this folder)")
    spec, path = config.frames, Path(os.path.expanduser(config.frames))
    recording = "://" not in spec and is_recording(path)
    if config.topic is not None and not recording:
        raise SourceError(f"{spec}: --topic is for recordings (.bag, .mcap, .db3, a ROS 2 bag's folder)")
    plays = not recording and "://" not in spec and path.is_file() and path.suffix.lower() not in LIST_SUFFIXES
    images = pages(path) if plays and path.suffix.lower() not in (".gif", *JPEG_AFTER_JPEG) else []
    if plays and not images and path.suffix.lower() not in STILLS:
        return VideoReader(path, config.stride, config.fps, config.start, config.end)
    if config.fps is not None or config.start or config.end is not None:
        kind = "--fps, --start and --end are for video files; use --stride and --max-frames"
        raise SourceError(f"{spec}: {misnamed(path) or kind}")
    if plays and not images and (problem := misnamed(path)):
        raise SourceError(f"{spec}: {problem}")
    if recording:
        return RecordingReader(path, config.topic, config.stride, depth_topic(config), config.depth_scale)
    if spec.startswith("http") and spec.partition("?")[0].lower().endswith(WHOLE):
        raise SourceError(f"{spec}: of http only live pictures (MJPEG) are read; download the file and name it")
    if is_live(spec):
        reopen = partial(camera.open_capture, spec)
        return CameraReader(full_name(spec), reopen(), config.stride, reopen=reopen)
    if "://" in spec:
        raise SourceError(f"{spec}: of addresses only rtsp://, http:// (MJPEG) and udp:// are read")
    if len(images) > 1:
        return StackReader(path, images, config.stride, config.exif)
    files, others = find_images(spec, path)
    return FileReader(files, config.stride, config.exif, spec, left_out(spec, others))


def depth_topic(config: SourceConfig) -> str | None:
    """The topic that `config.depth` names, if the source is a recording and no such file or folder exists; otherwise None."""
    path = Path(os.path.expanduser(config.frames))
    if config.depth is None or config.depth.exists() or "://" in config.frames or not is_recording(path):
        return None
    return str(config.depth)


def _at_most(length: int | None, limit: int | None) -> int | None:
    """The smaller of two numbers, either of which may be unknown."""
    known = [number for number in (length, limit) if number is not None]
    return min(known, default=None)
