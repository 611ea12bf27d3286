"""`video.mp4`: frame and colour-mapped depth side by side, 30 frames a second, H.264.

The file is fragmented (one fragment a frame), so that it plays after a kill. The muxer holds the newest frame back
until the next one comes; a resumed run gets that packet from the saved state and copies the others without encoding
them again.
"""

import itertools
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from ivggt_jax.depth_colours import colour_depth, inverse_depth_range
from ivggt_jax.disk.beside import written_beside
from ivggt_jax.writers.files import ResumeError, naming
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer, required

RATE = 30
"""Frames a second, whatever the source's: a stride or a slow camera would make a video that stands still."""
FRAGMENTED = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}


class VideoWriter(Writer):
    """Encodes one picture for every frame."""

    name = "video"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._path = out / "video.mp4"
        self._frames = frames
        self._inverse_range = state.get("inverse_range")
        self._stream: av.VideoStream | None = None
        with naming(self._path):
            out.mkdir(parents=True, exist_ok=True)
            if frames == 0:
                self._container = av.open(str(self._path), "w", format="mp4", options=FRAGMENTED)
            else:
                self._resume(state)

    def write(self, result: Result) -> None:
        """Encodes the frame's picture."""
        depth = required(result.depth, "video.mp4", "depth")
        self._inverse_range = inverse_depth_range(depth, self._inverse_range)
        picture = np.concatenate((result.frame.image, colour_depth(depth, self._inverse_range)), axis=1)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = self._frames, Fraction(1, RATE)
        with naming(self._path):
            if self._stream is None:
                self._stream = _add_stream(self._container, frame.width, frame.height)
            for packet in self._stream.encode(frame):
                self._mux(packet)
        self._frames += 1

    def state(self) -> dict[str, np.ndarray]:
        """The range of the colours, and the packet that the file does not hold yet."""
        if self._stream is None or self._inverse_range is None:
            return {}
        return {
            "size": np.array((self._stream.width, self._stream.height)),
            "inverse_range": self._inverse_range,
            "newest": np.frombuffer(self._newest, np.uint8),
            "newest_is_keyframe": np.array(self._newest_is_keyframe),
        }

    def close(self) -> None:
        """Finishes the file."""
        with naming(self._path):
            self._container.close()

    def _mux(self, packet: "av.Packet[Any]") -> None:
        # Muxing takes the packet's data away.
        self._newest, self._newest_is_keyframe = bytes(packet), packet.is_keyframe
        packet.stream = self._stream
        self._container.mux(packet)

    def _resume(self, state: Mapping[str, np.ndarray]) -> None:
        """Copies all frames but the newest into a new file, adds that one, and goes on from there."""
        with written_beside(self._path) as part:
            self._container = av.open(str(part), "w", format="mp4", options=FRAGMENTED)
            self._stream = _add_stream(self._container, *(int(side) for side in state["size"]))
            copied = 0
            if self._path.is_file():
                with av.open(str(self._path)) as old:
                    # The muxer wants packets as the encoder makes them, with start codes in place of lengths.
                    start_codes = BitStreamFilterContext("h264_mp4toannexb", old.streams.video[0])
                    for packet in itertools.islice(old.demux(video=0), self._frames - 1):
                        for whole in start_codes.filter(packet):
                            self._mux(_numbered(whole, copied))
                            copied += 1
            if copied < self._frames - 1:
                self._container.close()
                raise ResumeError(self._path, copied, self._frames)
            newest = av.Packet(state["newest"].tobytes())
            newest.is_keyframe = bool(state["newest_is_keyframe"])
            self._mux(_numbered(newest, copied))


def _add_stream(container: av.container.OutputContainer, width: int, height: int) -> av.VideoStream:
    """An H.264 stream whose encoder hands out every packet at once."""
    options = {"tune": "zerolatency", "crf": "20", "g": "30"}
    return container.add_stream("libx264", rate=RATE, width=width, height=height, pix_fmt="yuv420p", options=options)


def _numbered(packet: "av.Packet[Any]", number: int) -> "av.Packet[Any]":
    """The packet as the one of frame `number`."""
    packet.pts = packet.dts = number
    packet.duration, packet.time_base = 1, Fraction(1, RATE)
    return packet
