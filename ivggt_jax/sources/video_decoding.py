"""Decoding of a video stream: frames with their times, and damage where it is."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read alpha in these codecs; FFmpeg's own ignore it."""


@dataclass(frozen=True)
class Decoded:
    """A decoded frame, or the error in its place."""

    seconds: float | None
    result: VideoFrame | str

    @property
    def is_damaged(self) -> bool:
        """Whether the frame is not complete."""
        return isinstance(self.result, str) or self.result.is_corrupt

    @property
    def is_key_frame(self) -> bool:
        """Whether decoding can start here."""
        return isinstance(self.result, VideoFrame) and bool(self.result.key_frame)


def decode(packets: "Iterator[Packet[VideoStream]]", stream: VideoStream) -> Iterator[Decoded]:
    """Frames in presentation order. Decoding continues after a damaged packet, but not after a damaged container."""
    context: Any = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and context.name in WITH_ALPHA:
        context = av.codec.CodecContext.create(WITH_ALPHA[context.name], "r")
    try:
        for packet in packets:
            try:
                yield from (Decoded(frame.time, frame) for frame in context.decode(packet))
            except Exception as error:  # FFmpeg's errors, and PyAV's own if a codec did not open
                seconds = None if packet.pts is None else float(packet.pts * packet.time_base)
                yield Decoded(seconds, reason(error))
    except Exception as error:
        yield Decoded(None, f"the file cannot be read further: {reason(error)}")


def with_times(items: Iterator[Decoded], stream: VideoStream) -> Iterator[Decoded]:
    """Fill in times that are missing (in raw streams) or do not increase (in AVI with B-frames): one frame interval after the
    previous frame, if the rate is known."""
    rate = rate_of(stream)
    interval = 1 / rate if rate else None
    latest: float | None = None
    for item in items:
        if isinstance(item.result, str) and item.seconds is not None:
            yield item  # a damaged packet; packets are not in presentation order
            continue
        if interval is not None and (item.seconds is None or (latest is not None and item.seconds <= latest)):
            item = replace(item, seconds=0.0 if latest is None else latest + interval)
        latest = item.seconds
        yield item


def rate_of(stream: VideoStream) -> float | None:
    """Frames per second, according to the file; FFmpeg's guess from the first frames if it says nothing."""
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def reason(error: Exception) -> str:
    """FFmpeg's words for an error."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
