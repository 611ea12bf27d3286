"""Video files as a source: streaming decode, presentation timestamps, orientation."""

import math
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import av.container
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from ivggt_jax.sources.frame import LARGEST_IMAGE, RawFrame, SourceError

CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,mxf,ivf,h264,hevc,obu,mjpeg,yuv4mpegpipe,gif"
"""What is opened, by FFmpeg's names: files that stand alone. A playlist would wait for the network or for its next entry."""

TOLERANCE = 1e-6
"""Seconds by which a timestamp may miss a moment that is asked for."""

SEEK_MARGINS = (1.0, 10.0)
"""Seconds to aim earlier: some containers seek by decoding time, which runs ahead of presentation by a few frames, and
some (MPEG-TS and -PS) to any frame, where pictures begin at the next key frame only."""

TURNS = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""Display matrix (a, b, c, d), with x' = a·x + c·y and y' = b·x + d·y in image axes, to what turns the picture upright."""


class VideoReader:
    """Reads a video file, a few frames in memory at a time. Pixels that are not square are left as stored."""

    resumable = True
    read_ahead = True
    length = None
    dropped = 0

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
            fps: instead of a stride: frames per second to take, never more than there are.
            start: first moment to take, in seconds from the video's beginning. Frames are counted from there.
            end: last moment to take, in seconds from the video's beginning.

        Raises:
            SourceError: the file is missing, not a video, or damaged beyond opening.
        """
        self._path, self._stride, self._fps, self._start, self._end = path, stride, fps, start, end
        container, stream = self._open()
        with container:
            self.expected_length = self._expected_length(container, stream)

    def raw_frames(self) -> Iterator[RawFrame]:
        """The chosen frames; one that is damaged raises when it is read."""
        container, stream = self._open()
        with container:
            beginning = _beginning(stream)
            if self._start and stream.start_time is not None:
                self._seek(container, beginning + self._start)
            index, last_slot = 0, -1
            for decoded in _with_times(_decode(container, stream), stream):
                if decoded.seconds is None and (self._fps or self._start or self._end is not None):
                    raise SourceError(f"{self._path}: has no timestamps; use --stride, not --fps, --start or --end")
                elapsed = (decoded.seconds or 0.0) - beginning
                if elapsed < self._start - TOLERANCE:
                    continue
                if self._end is not None and elapsed > self._end + TOLERANCE:
                    break
                if self._fps:
                    slot = math.floor((elapsed - self._start + TOLERANCE) * self._fps)
                    chosen, last_slot = slot > last_slot, max(slot, last_slot)
                else:
                    chosen = index % self._stride == 0
                if chosen:
                    where = f"{self._path}, frame {index}"
                    yield RawFrame(index, decoded.seconds, f"{index:06d}", where, partial(_read, decoded.result, where))
                index += 1

    def close(self) -> None:
        """Nothing is held open outside `raw_frames`."""

    def _open(self) -> tuple[av.container.InputContainer, VideoStream]:
        if not self._path.is_file():
            raise SourceError(f"{self._path}: there is no such file")
        try:
            options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
            container = av.open(str(self._path), options=options)
        except Exception as error:
            raise SourceError(f"{self._path}: is not a video that can be read ({_reason(error)})") from error
        if not container.streams.video:
            container.close()
            raise SourceError(f"{self._path}: holds no video")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            container.close()
            raise SourceError(f"{self._path}: its header is damaged, or its codec unknown: convert it to H.264 first")
        stream.thread_type = "NONE"  # with threads, what a damaged frame looks like differs from run to run
        stream.codec_context.options = {"max_pixels": str(LARGEST_IMAGE)}
        return container, stream

    def _seek(self, container: av.container.InputContainer, moment: float) -> None:
        """Go to a key frame at or before a moment, in seconds; where none is found, stay at the beginning."""
        for margin in SEEK_MARGINS:
            target = int((moment - margin) * av.time_base)
            trial, stream = self._open()
            with trial, suppress(av.FFmpegError):
                trial.seek(target)
                first = next(_decode(trial, stream), None)
                if first and first.is_key_frame and first.seconds is not None and first.seconds <= moment:
                    container.seek(target)
                    return

    def _expected_length(self, container: av.container.InputContainer, stream: VideoStream) -> int | None:
        if not container.duration or not stream.average_rate:
            return None
        rate = float(stream.average_rate)
        seconds = container.duration / av.time_base
        if stream.duration is None:  # Matroska and FLV give the end for the duration
            seconds -= _beginning(stream)
        if self._end is not None:
            seconds = min(seconds, self._end)
        rate = min(self._fps, rate) if self._fps else rate / self._stride
        return max(0, math.ceil((seconds - self._start) * rate - 1e-6))


def _beginning(stream: VideoStream) -> float:
    """Seconds at which the video begins."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


@dataclass(frozen=True)
class _Decoded:
    """A decoded frame, or what is wrong where one should be."""

    seconds: float | None
    result: VideoFrame | str

    @property
    def is_key_frame(self) -> bool:
        """Whether decoding can begin here."""
        return isinstance(self.result, VideoFrame) and bool(self.result.key_frame)


def _decode(container: av.container.InputContainer, stream: VideoStream) -> Iterator[_Decoded]:
    """Frames in order of presentation. After a damaged packet decoding goes on; after a damaged container it cannot."""
    try:
        for packet in container.demux(stream):
            try:
                yield from (_Decoded(frame.time, frame) for frame in packet.decode())
            except Exception as error:  # FFmpeg's errors, and PyAV's own where a codec did not open
                seconds = None if packet.pts is None else float(packet.pts * packet.time_base)
                yield _Decoded(seconds, _reason(error))
    except Exception as error:
        yield _Decoded(None, f"the file cannot be read further: {_reason(error)}")


def _with_times(items: Iterator[_Decoded], stream: VideoStream) -> Iterator[_Decoded]:
    """Put in times that are missing (raw streams have none) or do not rise (AVI knows no B-frames): one frame interval
    after the one before, where there is a rate."""
    interval = float(1 / stream.average_rate) if stream.average_rate else None
    latest: float | None = None
    for item in items:
        if isinstance(item.result, str) and item.seconds is not None:
            yield item  # a damaged packet, and packets are not in the order of presentation
            continue
        if interval is not None and (item.seconds is None or (latest is not None and item.seconds <= latest)):
            item = replace(item, seconds=0.0 if latest is None else latest + interval)
        latest = item.seconds
        yield item


def _read(frame: VideoFrame | str, where: str) -> Image.Image:
    if isinstance(frame, str):
        raise SourceError(f"{where}: is damaged or truncated ({frame})")
    if frame.is_corrupt:
        raise SourceError(f"{where}: is damaged or truncated (parts of the picture are missing)")
    try:
        turn = _turn(frame)
        image = frame.to_image()
    except Exception as error:  # whatever the scaler makes of a damaged frame
        raise SourceError(f"{where}: cannot be converted to RGB ({_reason(error)})") from error
    return image if turn is None else image.transpose(turn)


def _turn(frame: VideoFrame) -> Image.Transpose | None:
    """What turns a frame upright, by its display matrix: nine 16.16 fixed-point numbers, row vectors on the left."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d, *_ = (round(value / 65536) for value in struct.unpack("=9i", bytes(matrix)))
    return TURNS.get((a, b, c, d))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
