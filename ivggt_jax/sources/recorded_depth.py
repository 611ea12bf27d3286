"""Depth in robots' recordings: images of 16 bits or floats (16UC1, 32FC1; REP 118), matched to frames."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ivggt_jax.sources.depths import LOOKED_AT, in_metres
from ivggt_jax.sources.frame import LARGEST_IMAGE, RawFrame, SourceError
from ivggt_jax.sources.times import ASSOCIATION_SECONDS

ENCODINGS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
"""Encodings of depth and the types of their values; integers are in steps of the scale, floats in metres."""

RECORDED_WITHIN = 1.0
"""Seconds before and after a frame is recorded within which the depth of its time is recorded."""


class Stamped(NamedTuple):
    """A message with two times in seconds: when it was recorded, and that of its stamp."""

    recorded: float
    time: float
    content: Any


class NearestMessage:
    """For each of a sequence of frames, finds the message nearest in time, from messages in recorded order.

    Which messages are held depends on when they were recorded, because a single wrong stamp, of a frame or of a message, would
    otherwise lose all that follow.
    """

    def __init__(self, messages: Iterator[Stamped]):
        self._messages = messages
        self._near: deque[Stamped] = deque()

    def to(self, recorded: float, time: float) -> Any | None:
        """The message within 0.02 s of the time of the next frame, which was recorded at `recorded`; None if there is none."""
        while not self._near or self._near[-1].recorded <= recorded + RECORDED_WITHIN:
            if (found := next(self._messages, None)) is None:
                break
            self._near.append(found)
        while self._near and self._near[0].recorded < recorded - RECORDED_WITHIN:
            self._near.popleft()
        nearest = min(self._near, key=lambda message: abs(message.time - time), default=None)
        return nearest.content if nearest and abs(nearest.time - time) <= ASSOCIATION_SECONDS else None


def check_recorded(raws: Iterator[RawFrame], topic: object) -> None:
    """Raises SourceError when none of the first frames has a depth image of the topic near in time."""
    times = []
    for raw in islice(raws, LOOKED_AT):
        if raw.depth is not None:
            return
        times.append(raw.timestamp)
    if known := [time for time in times if time is not None]:
        raise SourceError(
            f"no image of {topic} is within {ASSOCIATION_SECONDS} s of a frame (frames' times: from {known[0]:.3f} to "
            f"{known[-1]:.3f}): are both of one clock?"
        )


def depth_image(message: Any, scale: float) -> np.ndarray:
    """Depth in metres, float32 [h,w], from an Image, NaN where nothing was measured; integers are `scale` to a metre.

    Raises SourceError when it is not a depth image; ValueError or a NumPy error when it is damaged.
    """
    if message.encoding not in ENCODINGS:
        raise SourceError(f"its encoding {message.encoding} is none of depth: {', '.join(ENCODINGS)}")
    if message.width * message.height > LARGEST_IMAGE:
        raise SourceError(f"{message.width}×{message.height} pixels are too many")
    return in_metres(values_of(message, np.dtype(ENCODINGS[message.encoding]), 1), scale)


def values_of(message: Any, dtype: np.dtype[Any], channels: int) -> np.ndarray:
    """The values [h, w·channels] of an Image in its own byte order; rows may be padded."""
    dtype = dtype.newbyteorder(">" if message.is_bigendian else "<")
    rows = message.data[: message.height * message.step].reshape(message.height, message.step)
    return np.asarray(rows[:, : message.width * channels * dtype.itemsize].copy().view(dtype))
