"""`video.mp4`: frame and colour-mapped depth side by side, at the source's own speed, with tracks if there are any; H.264.

Small frames are enlarged by an integer factor to be watchable. The file is fragmented (one fragment per frame), so that it plays
after a kill. The muxer holds back the latest frame until the next one comes; a resumed run gets that packet from the saved state
and copies the others without re-encoding.
"""

import itertools
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from PIL import Image

from ivggt_jax.depth_colours import colour_depth, inverse_depth_range
from ivggt_jax.disk.beside import written_beside
from ivggt_jax.writers.files import ResumeError, naming
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.trails import Trails
from ivggt_jax.writers.writer import ExportOptions, Writer, required

RATE = 30
"""Frames per second for a source without times."""
TICK = Fraction(1, 90_000)
"""Time base in seconds: 1/24, 1/25, 1/30 and 1/60 are whole multiples of it."""
SHORTEST, LONGEST = 1 / 240, 1.0
"""Bounds in seconds on how long a frame is shown: frames with equal times stay distinct, and a pause of the camera does not
freeze the video."""
READABLE = 360
"""Length in pixels of a frame's shorter side from which it is not enlarged."""
FRAGMENTED = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}


class VideoWriter(Writer):
    """Encodes one picture for every frame."""

    name = "video"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._path = (out / "video.mp4").absolute()  # relative, a colon would end a protocol
        self._frames = frames
        self._inverse_range = state.get("inverse_range")
        self._trails = Trails(state)
        self._pts, self._timestamp = int(state.get("pts", -1)), float(state.get("timestamp", np.nan))
        self._stream: av.VideoStream | None = None
        with naming(self._path):
            out.mkdir(parents=True, exist_ok=True)
            if frames == 0:
                self._container = av.open(str(self._path), "w", format="mp4", options=FRAGMENTED)
            else:
                self._resume(state)

    def write(self, result: Result) -> None:
        """Encode the frame's picture."""
        depth = required(result.depth, "video.mp4", "depth")
        self._inverse_range = inverse_depth_range(depth, self._inverse_range)
        self._trails.add(result)
        picture = self._picture(result.frame.image, colour_depth(depth, self._inverse_range))
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = self._next_pts(result.frame.timestamp), TICK
        with naming(self._path):
            if self._stream is None:
                self._stream = _add_stream(self._container, frame.width, frame.height)
            for packet in self._stream.encode(frame):
                self._mux(packet)
        self._frames += 1

    def state(self) -> dict[str, np.ndarray]:
        """The colour range, and the packet that is not in the file yet."""
        if self._stream is None or self._inverse_range is None:
            return {}
        return {
            "size": np.array((self._stream.width, self._stream.height)),
            "inverse_range": self._inverse_range,
            "newest": np.frombuffer(self._newest, np.uint8),
            "newest_is_keyframe": np.array(self._newest_is_keyframe),
            "pts": np.array(self._pts),
            "timestamp": np.array(self._timestamp),
            **self._trails.state(),
        }

    def close(self) -> None:
        """Finish the file."""
        with naming(self._path):
            self._container.close()

    def _picture(self, image: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Both side by side, uint8 [H', W', 3], large enough to watch."""
        height, width, _ = image.shape
        size = np.array((width, height)) * math.ceil(READABLE / min(width, height))
        left = Image.fromarray(image).resize(size.tolist(), Image.Resampling.BICUBIC)
        self._trails.draw(left, width)
        right = Image.fromarray(depth).resize(size.tolist(), Image.Resampling.NEAREST)
        return np.concatenate((np.asarray(left), np.asarray(right)), axis=1)

    def _next_pts(self, timestamp: float | None) -> int:
        """Presentation time of the next frame, in ticks from the first."""
        if self._pts < 0:
            self._pts = 0
        else:
            seconds = np.nan if timestamp is None else timestamp - self._timestamp
            shown = min(max(seconds, SHORTEST), LONGEST) if np.isfinite(seconds) else 1 / RATE
            self._pts += round(shown / TICK)
        self._timestamp = np.nan if timestamp is None else timestamp
        return self._pts

    def _mux(self, packet: "av.Packet[Any]") -> None:
        # Muxing takes ownership of the packet's data.
        self._newest, self._newest_is_keyframe = bytes(packet), packet.is_keyframe
        packet.stream = self._stream
        self._container.mux(packet)

    def _resume(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy all frames but the latest into a new file, add that one, and continue."""
        with written_beside(self._path) as part:
            self._container = av.open(str(part), "w", format="mp4", options=FRAGMENTED)
            self._stream = _add_stream(self._container, *(int(side) for side in state["size"]))
            copied = 0
            if self._path.is_file():
                with av.open(str(self._path)) as old:
                    # The muxer expects packets as from the encoder, with start codes instead of lengths.
                    start_codes = BitStreamFilterContext("h264_mp4toannexb", old.streams.video[0])
                    for packet in itertools.islice(old.demux(video=0), self._frames - 1):
                        for whole in start_codes.filter(packet):
                            self._mux(_timed(whole, round((whole.pts or 0) * whole.time_base / TICK)))
                            copied += 1
            if copied < self._frames - 1:
                self._container.close()
                raise ResumeError(self._path, copied, self._frames)
            newest = av.Packet(state["newest"].tobytes())
            newest.is_keyframe = bool(state["newest_is_keyframe"])
            self._mux(_timed(newest, self._pts))


def _add_stream(container: av.container.OutputContainer, width: int, height: int) -> av.VideoStream:
    """An H.264 stream whose encoder outputs every packet immediately."""
    options = {"tune": "zerolatency", "crf": "20", "g": "30"}
    stream = container.add_stream("libx264", rate=RATE, width=width, height=height, pix_fmt="yuv420p", options=options)
    stream.codec_context.time_base = stream.time_base = TICK
    return stream


def _timed(packet: "av.Packet[Any]", pts: int) -> "av.Packet[Any]":
    """The packet with this presentation time, in ticks."""
    packet.pts = packet.dts = pts
    packet.duration, packet.time_base = round(1 / RATE / TICK), TICK
    return packet
