"""Video files as a source: streaming decode, presentation timestamps, orientation."""

import logging
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import av
import av.container
import numpy as np
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ivggt_jax.sources.frame import LARGEST_IMAGE, Mark, Picture, RawFrame, SourceError
from ivggt_jax.sources.hdr import NAMES
from ivggt_jax.sources.levels import FIRST, Stretch
from ivggt_jax.sources.video_decoding import Decoded, decode, rate_of, reason, with_times
from ivggt_jax.sources.video_frame import grey_16, is_grey_16, to_picture

logger = logging.getLogger(__name__)

CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,mxf,ivf,nut,h264,hevc,obu,mjpeg,mpjpeg,yuv4mpegpipe,gif"
"""Containers that are opened, by FFmpeg's names. No playlists, which would wait for the network or their next entry."""

TOLERANCE = 1e-6
"""Tolerance in seconds between a timestamp and a requested moment."""
EARLY = 2e-3
"""How many seconds early a frame may be for a moment that `fps` asks for: some containers round times to a thousandth."""

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".3gp", ".wmv", ".asf",
    ".ogv", ".mxf", ".insv", ".vob", ".nut", ".mjpeg", ".mjpg",
)  # fmt: skip
"""Suffixes by which videos are found among other files."""
JPEG_AFTER_JPEG = (".mjpeg", ".mjpg")
"""Suffixes of videos that begin like a picture."""

DEFAULT_IS_WORTH = 5_000_000
"""Bonus in pixels for the default video, in ffmpeg's choice among several."""

SEEK_MARGINS = (1.0, 10.0)
"""How much earlier to seek, in seconds. Some containers seek by decoding time, which is a few frames ahead of presentation; some
(MPEG-TS and -PS) seek to any frame, although decoding can only start at the next key frame."""

HEIC_BRANDS = ("heic", "heix", "heim", "heis", "mif1", "avif")
"""Pictures in video containers; FFmpeg would read one of their tiles as a video of one frame."""

CLOCK = re.compile(r"(\d+):(\d+):(\d+\.?\d*)")
"""How Matroska's tags give the end of a stream."""

THREADS = 4
"""Threads of the decoder; a fixed number, so that every run meets damage in the same place."""

MOST_ASPECT = 8.0
"""Largest aspect ratio of a pixel; more counts as damage."""


class VideoReader:
    """Reads a video file with a few frames in memory at a time."""

    resumable = True
    read_ahead = True
    length = None
    dropped = 0
    left_out = 0

    def __init__(
        self,
        path: Path,
        stride: int = 1,
        fps: float | None = None,
        start: float = 0.0,
        end: float | None = None,
    ):
        """Check that the file is a video that can be decoded.

        Args:
            path: of the file.
            stride: take every stride-th frame.
            fps: instead of a stride: frames per second to take, at most those that exist.
            start: first moment to take, in seconds from the video's beginning. Frames are counted from there.
            end: last moment to take, in seconds from the video's beginning.

        Raises:
            SourceError: the file is missing, not a video, or damaged beyond opening.
        """
        self._path, self._stride, self._fps, self._start, self._end = path, stride, fps, start, end
        self._stretch = Stretch(str(path), self._first_grey)
        container, stream = self._open()
        with container:
            self.rate = rate_of(stream)
            """Frames per second, according to the file."""
            self.seconds = _seconds(container, stream)
            """Length in seconds, according to the file."""
            self.expected_length = self._expected_length()
            self._aspect = _aspect(stream)
            self._tell(container, stream)

    def raw_frames(self) -> Iterator[RawFrame]:
        """The chosen frames; a damaged one raises when it is read."""
        return self._raw_frames(None)

    def raw_frames_from(self, mark: Mark) -> Iterator[RawFrame]:
        """The same, starting at a frame; or at the beginning if that has no time or the file has no key frames to seek to."""
        return self._raw_frames(mark)

    def _raw_frames(self, mark: Mark | None) -> Iterator[RawFrame]:
        container, stream = self._open(threads=True)
        with container:
            beginning = _beginning(stream)
            moment = mark.timestamp if mark else beginning + self._start if self._start else None
            target = None if moment is None or stream.start_time is None else self._seek(container, moment)
            index, last_slot = 0, -1
            sought = None if target is None else mark
            for decoded in with_times(self._decoded(container, stream, target), stream):
                if decoded.seconds is None and (self._fps or self._start or self._end is not None):
                    raise SourceError(f"{self._path}: has no timestamps; use --stride, not --fps, --start or --end")
                if sought is not None:
                    if decoded.seconds is None or decoded.seconds < (sought.timestamp or 0.0):
                        continue
                    index, sought = sought.index, None
                elapsed = (decoded.seconds or 0.0) - beginning
                if elapsed < self._start - TOLERANCE:
                    continue
                if self._end is not None and elapsed > self._end + TOLERANCE:
                    break
                if self._fps:
                    slot = math.floor((elapsed - self._start + EARLY) * self._fps)
                    chosen, last_slot = slot > last_slot, max(slot, last_slot)
                else:
                    chosen = index % self._stride == 0
                if chosen:
                    where = f"{self._path}, frame {index}"
                    read = partial(self._read, decoded.result, where)
                    yield RawFrame(index, decoded.seconds, f"{index:06d}", where, read)
                index += 1

    def close(self) -> None:
        """Nothing is held open outside `raw_frames`."""

    def _open(self, threads: bool = False) -> tuple[av.container.InputContainer, VideoStream]:
        if not self._path.is_file():
            raise SourceError(f"{self._path}: there is no such file")
        try:
            options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
            container = av.open(str(self._path.absolute()), options=options)  # relative, a colon would end a protocol
        except Exception as error:
            raise SourceError(f"{self._path}: is not a video that can be read ({reason(error)})") from error
        if container.format.name == "mjpeg" and not _begins_with_jpeg(self._path):
            container.close()
            raise SourceError(
                f"{self._path}: is no video but a document or an archive that holds JPEG pictures: take them out into a folder"
            )
        if container.metadata.get("major_brand") in HEIC_BRANDS:
            container.close()
            raise SourceError(f"{self._path}: is a HEIC or AVIF picture that is damaged, or lacks its ending")
        stream = _best(container)
        if stream is None:
            container.close()
            raise SourceError(f"{self._path}: holds no video")
        if stream.codec_context is None:
            container.close()
            raise SourceError(f"{self._path}: its header is damaged, or its codec unknown: convert it to H.264 first")
        stream.thread_type = "FRAME" if threads else "NONE"
        stream.thread_count = THREADS if threads else 1
        stream.codec_context.options = {"max_pixels": str(LARGEST_IMAGE)}
        return container, stream

    def _decoded(
        self, container: av.container.InputContainer, stream: VideoStream, target: int | None
    ) -> Iterator[Decoded]:
        """`decode` with threads up to the first damage, and without threads from there on.

        With threads, the content of a damaged frame differs from run to run, but the frames before it do not. Damage at the very
        end raises no error then; frames are missing instead.
        """
        sent, count = 0, 0

        def packets() -> "Iterator[Packet[VideoStream]]":
            nonlocal sent
            for packet in container.demux(stream):
                sent += packet.size > 0 and not packet.is_discard
                yield packet

        for decoded in decode(packets(), stream):
            if decoded.is_damaged:
                break
            yield decoded
            count += 1
        else:
            if count >= sent:
                return
        again, stream_again = self._open()
        with again:
            if target is not None:
                again.seek(target)
            yield from islice(decode(again.demux(stream_again), stream_again), count, None)

    def _seek(self, container: av.container.InputContainer, moment: float) -> int | None:
        """Seek to a key frame at or before a moment, in seconds. Returns the target given to FFmpeg.

        If none is found, stay at the beginning.
        """
        for margin in SEEK_MARGINS:
            target = int((moment - margin) * av.time_base)
            trial, stream = self._open()
            with trial, suppress(av.FFmpegError):
                trial.seek(target)
                first = next(decode(trial.demux(stream), stream), None)
                if first and first.is_key_frame and first.seconds is not None and first.seconds <= moment:
                    container.seek(target)
                    return target
        return None

    def _read(self, frame: VideoFrame | str, where: str) -> Picture:
        if isinstance(frame, str):
            raise SourceError(f"{where}: is damaged or truncated ({frame})")
        if frame.is_corrupt:
            raise SourceError(f"{where}: is damaged or truncated (parts of the picture are missing)")
        try:
            return to_picture(frame, self._aspect, self._stretch)
        except Exception as error:  # the scaler may raise anything for a damaged frame
            raise SourceError(f"{where}: cannot be converted to RGB ({reason(error)})") from error

    def _first_grey(self) -> Iterator[np.ndarray]:
        container, stream = self._open()
        with container:
            for decoded in islice(decode(container.demux(stream), stream), FIRST):
                if isinstance(decoded.result, VideoFrame) and is_grey_16(decoded.result):
                    yield grey_16(decoded.result)

    def _tell(self, container: av.container.InputContainer, stream: VideoStream) -> None:
        """Print a line for each property in which the output differs from the file."""
        if len(others := [other for other in container.streams.video if not _is_cover(other)]) > 1:
            logger.warning(
                "%s holds %d videos: number %d is taken, %d×%d pixels",
                self._path, len(others), others.index(stream) + 1, stream.width, stream.height,
            )  # fmt: skip
        if name := NAMES.get(stream.codec_context.color_trc):
            logger.warning("%s: is in %s (high dynamic range): tone-mapped to ordinary video", self._path, name)
        if self._fps and self.rate and self._fps > self.rate + 0.5:  # 30 may be asked of 29.97
            logger.warning("%s: has %.6g frames per second, not %.6g: all are taken", self._path, self.rate, self._fps)

    def _expected_length(self) -> int | None:
        if self.seconds is None or self.rate is None:
            return None
        rate, seconds = self.rate, self.seconds
        if self._end is not None:
            seconds = min(seconds, self._end)
        rate = min(self._fps, rate) if self._fps else rate / self._stride
        return max(0, math.ceil((seconds - self._start) * rate - 1e-6))


def _begins_with_jpeg(path: Path) -> bool:
    """Whether a file consists of pictures from its beginning; FFmpeg searches for them anywhere, even in a PDF."""
    with path.open("rb") as file:
        return file.read(2) == b"\xff\xd8"


def _seconds(container: av.container.InputContainer, stream: VideoStream) -> float | None:
    """Length of the video, or of the whole file, whose sound may be longer, if only that is stored."""
    if stream.duration:
        return float(stream.duration * (stream.time_base or 0))
    if clock := CLOCK.fullmatch(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, clock.groups())
        end = (hours * 60 + minutes) * 60 + seconds
    elif container.duration:
        end = container.duration / av.time_base
    else:
        return None
    return end - _beginning(stream)  # Matroska and FLV store the end as the duration


def _beginning(stream: VideoStream) -> float:
    """Start time of the video in seconds."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _best(container: av.container.InputContainer) -> VideoStream | None:
    """The video stream that ffmpeg would choose, by pixels and the file's default; a cover picture does not count."""
    videos = [stream for stream in container.streams.video if not _is_cover(stream)]

    def rank(stream: VideoStream) -> int:
        pixels = 0 if stream.codec_context is None else stream.width * stream.height
        return pixels + DEFAULT_IS_WORTH * bool(stream.disposition & Disposition.default)

    return max(videos, key=rank, default=None)


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _aspect(stream: VideoStream) -> float:
    """Width of a stored pixel over its height; 1 if unknown or implausible."""
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / MOST_ASPECT <= aspect <= MOST_ASPECT else 1.0
