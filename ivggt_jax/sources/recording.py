"""Robots' recordings as a source, without ROS: ROS 1 bags, ROS 2 bags (SQLite, MCAP) (extra `ros`).

Messages are sensor_msgs/Image and sensor_msgs/CompressedImage. A frame's time is its header's stamp, or the recording time if it
has no stamp.
"""

import io
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from ivggt_jax.sources.frame import LARGEST_IMAGE, Picture, RawFrame, SourceError
from ivggt_jax.sources.image_file import FORMATS, decode, grey_16, is_grey_16, reason, to_picture
from ivggt_jax.sources.levels import FIRST, Stretch
from ivggt_jax.sources.recorded_depth import NearestMessage, Stamped, depth_image, values_of

SUFFIXES = (".bag", ".mcap", ".db3")
"""Suffixes of recordings in one file."""
RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"

ENCODINGS = {
    **{"rgb8": ("rgb24", 3), "bgr8": ("bgr24", 3), "8UC3": ("bgr24", 3), "rgba8": ("rgba", 4), "bgra8": ("bgra", 4)},
    **{"8UC4": ("bgra", 4), "mono8": ("gray", 1), "8UC1": ("gray", 1), "mono16": ("gray16", 1), "16UC1": ("gray16", 1)},
    **{f"bayer_{order}8": (f"bayer_{order}8", 1) for order in ("rggb", "bggr", "gbrg", "grbg")},
    **{"yuv422": ("uyvy422", 2), "uyvy": ("uyvy422", 2), "yuv422_yuy2": ("yuyv422", 2), "yuyv": ("yuyv422", 2)},
}
"""From sensor_msgs/image_encodings: FFmpeg's pixel format and the number of values per pixel. Alpha is ignored, because cameras
write arbitrary values into it."""


def is_recording(path: Path) -> bool:
    """Whether a path is a recording: a file by its suffix, a folder by its content."""
    if path.is_dir():
        return is_bag(item.name for item in path.iterdir())
    return path.suffix.lower() in SUFFIXES and path.is_file()


def is_bag(names: Iterable[str]) -> bool:
    """Whether a folder with these files is a ROS 2 bag: it has metadata and storage, possibly compressed."""
    names = set(names)
    return "metadata.yaml" in names and any(name.removesuffix(".zstd").endswith(SUFFIXES) for name in names)


class RecordingReader:
    """Reads the pictures of one topic in recorded order, with one message in memory at a time."""

    resumable = True
    read_ahead = True
    dropped = 0
    left_out = 0

    def __init__(
        self, path: Path, topic: str | None = None, stride: int = 1, depth: str | None = None, depth_scale: float = 1000
    ):
        """Check that the recording has pictures, and choose their topic.

        topic: None takes the only one with pictures. depth: topic of depth images, with `depth_scale` integer steps per metre;
        None: no depth. Raises SourceError when the recording cannot be read, has no pictures, has several topics with pictures
        and none is named, or lacks the depth.
        """
        self._path, self._stride = path, stride
        self._depth, self._depth_scale = depth, depth_scale
        with self._open() as bag:
            counts = {c.topic: 0 for c in bag.connections if c.msgtype in (RAW, COMPRESSED)}
            for connection in bag.connections:
                if connection.topic in counts:
                    counts[connection.topic] += connection.msgcount
            raw = {c.topic for c in bag.connections if c.msgtype == RAW}
        if depth is not None:
            _check_depth(path, counts, raw, depth)
        self._topic = _chosen(path, {name: n for name, n in counts.items() if name != depth}, topic)
        self.length = -(-counts[self._topic] // stride)
        self.expected_length = self.length
        self._stretch = Stretch(str(path), self._first_grey)

    def raw_frames(self) -> Iterator[RawFrame]:
        """One raw frame for every stride-th message; a damaged one raises when it is read."""
        index = -1
        try:
            with self._open() as bag, closing(self._stamped(self._depth)) as depths:
                nearest = NearestMessage(depths)
                for index, (recorded, message) in enumerate(self._messages(bag, self._topic)):
                    if index % self._stride:
                        continue
                    where = f"{self._path}, {self._topic}, frame {index}"
                    content = bag.deserialize(*message)
                    time = _seconds(content, recorded)
                    read, measured = partial(self._read, content, where), nearest.to(recorded / 1e9, time)
                    depth = None if measured is None else partial(self._read_depth, measured, time)
                    yield RawFrame(index, time, f"{index:06d}", where, read, depth=depth)
        except Exception as error:  # readers raise almost anything on a damaged file
            where = f"{self._path}, {self._topic}, frame {index + 1}"
            yield RawFrame(index + 1, None, f"{index + 1:06d}", where, partial(_fail, where, error))

    def close(self) -> None:
        """Nothing is held open outside `raw_frames`."""

    def _open(self) -> closing[Any]:
        """The recording, opened for a `with` block."""
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_typestore
        except ImportError:
            raise SourceError(f"{self._path}: recordings need rosbags: pip install 'ivggt_jax[ros]'") from None
        try:
            # Old ROS 2 bags lack message definitions; those of pictures never changed.
            bag = AnyReader([self._path], default_typestore=get_typestore(Stores.LATEST))
            bag.open()
        except Exception as error:
            raise SourceError(
                f"{self._path}: is not a recording that can be read ({reason(error)}); one that broke off must be repaired first: "
                "`mcap recover`, `rosbag reindex`, or `sqlite3 … .recover`"
            ) from error
        return closing(bag)

    def _messages(self, bag: Any, topic: str) -> Iterator[tuple[int, tuple[bytes, str]]]:
        """Recording time in ns and the raw message with its type, for all messages of a topic."""
        connections = [connection for connection in bag.connections if connection.topic == topic]
        for connection, recorded, data in bag.messages(connections):
            yield recorded, (data, connection.msgtype)

    def _stamped(self, topic: str | None) -> Generator[Stamped, None, None]:
        """Messages of a topic with their times; none if the topic is None."""
        if topic is None:
            return
        with self._open() as bag:
            for recorded, message in self._messages(bag, topic):
                content = bag.deserialize(*message)
                yield Stamped(recorded / 1e9, _seconds(content, recorded), content)

    def _read_depth(self, message: Any, time: float) -> np.ndarray:
        where = f"{self._path}, {self._depth}, the depth of the frame at {time:.3f} s"
        try:
            return depth_image(message, self._depth_scale)
        except SourceError as error:
            raise SourceError(f"{where}: {error}") from None
        except Exception as error:  # NumPy raises various errors for a message that is too short
            raise SourceError(f"{where}: is damaged or truncated ({reason(error)})") from error

    def _read(self, message: Any, where: str) -> Picture:
        try:
            return to_picture(_picture(message), exif=False, stretch=self._stretch)
        except SourceError as error:
            raise SourceError(f"{where}: {error}") from None
        except Exception as error:  # decoders raise almost anything on damaged data
            raise SourceError(f"{where}: is damaged or truncated ({reason(error)})") from error

    def _first_grey(self) -> Iterator[np.ndarray]:
        with self._open() as bag:
            for _, message in islice(self._messages(bag, self._topic), 0, FIRST * self._stride, self._stride):
                try:
                    image = _picture(bag.deserialize(*message))
                except Exception:  # reported when its turn comes
                    continue
                if is_grey_16(image):
                    yield grey_16(image)


def _chosen(path: Path, counts: dict[str, int], topic: str | None) -> str:
    """The topic to read, among those with pictures."""
    if not counts:
        raise SourceError(f"{path}: holds no pictures: no topic is a sensor_msgs/Image or CompressedImage")
    there = ", ".join(f"{name} ({count} frames)" for name, count in sorted(counts.items()))
    if topic is None and len(counts) > 1:
        raise SourceError(f"{path}: holds pictures of several topics; name one with --topic: {there}")
    if topic is not None and topic not in counts:
        raise SourceError(f"{path}: holds no pictures of a topic {topic}; there is {there}")
    return topic or next(iter(counts))


def _check_depth(path: Path, counts: dict[str, int], raw: set[str], depth: str) -> None:
    """Raises SourceError when a topic has no depth images."""
    if depth not in raw:
        there = ", ".join(f"{name} ({counts[name]} images)" for name in sorted(raw)) or "none"
        why = (
            "is compressed, which is not read of depth"
            if depth in counts
            else "is neither a topic of images in it nor a folder"
        )
        raise SourceError(f"{path}: --depth {depth} {why}; topics of images: {there}")


def _seconds(message: Any, recorded: int) -> float:
    """The time of a message: its stamp, or the recording time `recorded` in ns if it has none."""
    stamp = message.header.stamp
    return (stamp.sec * 1_000_000_000 + stamp.nanosec or recorded) / 1_000_000_000


def _picture(message: Any) -> Image.Image:
    """The decoded picture of a message. Raises SourceError for unsupported formats, and whatever a decoder raises for damage."""
    if not hasattr(message, "encoding"):
        if "compressedDepth" in message.format:
            raise SourceError("is a depth map (compressedDepth), not a picture: name another --topic")
        try:
            image = Image.open(io.BytesIO(message.data.tobytes()), formats=FORMATS)
        except UnidentifiedImageError:  # for example H.264, whose frames depend on each other
            raise SourceError(f"is no picture, though its format says {message.format!r}") from None
        decode(image, exif=False)
        return image
    if message.encoding not in ENCODINGS:
        raise SourceError(f"its encoding {message.encoding} is none of {', '.join(ENCODINGS)}")
    if message.width * message.height > LARGEST_IMAGE:
        raise SourceError(f"{message.width}×{message.height} pixels are too many; scale it down first")
    pixels, channels = ENCODINGS[message.encoding]
    values = values_of(message, np.dtype("u2" if pixels == "gray16" else "u1"), channels)
    if pixels == "gray16":
        return Image.fromarray(values.astype(np.uint16))
    values = values.reshape(message.height, message.width, channels)
    if pixels == "uyvy422":
        pixels, values = "yuyv422", np.ascontiguousarray(values[..., ::-1])
    frame = av.VideoFrame.from_ndarray(values[..., 0] if channels == 1 else values, format=pixels)
    return Image.fromarray(frame.to_ndarray(format="rgb24"))


def _fail(where: str, error: Exception) -> Picture:
    raise SourceError(f"{where}: the recording cannot be read further ({reason(error)})") from error
