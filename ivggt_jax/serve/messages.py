"""The messages between clients and server: each is one map, as MessagePack (binary) or JSON (text).

Answers use the form of the client's first message. In JSON, bytes are base64. docs/live.md describes every message.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgpack
import numpy as np

from ivggt_jax.serve.options import LONGEST_TOKEN

VERSION = 1
"""Version of the message format."""
Want = Literal["depth", "confidence", "points", "tracks"]
"""What a client may request besides its camera."""
DepthFormat = Literal["float16", "png16"]
FrameFormat = Literal["jpeg", "webp", "h264"]
LARGEST_ID = 2**53
"""Integers below this are exact in JavaScript, too."""


class MessageError(ValueError):
    """An invalid message: the client gets an error, and other clients are not affected."""

    def __init__(self, text: str, number: int | None = None):
        """number: `id` of the frame the message was about, if it had one."""
        super().__init__(text)
        self.number = number


@dataclass(frozen=True)
class Hello:
    """The first message of a client."""

    token: str
    want: frozenset[Want]
    depth: DepthFormat
    text: bool
    """Whether it came as JSON; the answers then do, too."""


@dataclass(frozen=True)
class FrameMessage:
    """A frame, or the next piece of an H.264 video."""

    id: int
    timestamp: float | None
    format: FrameFormat
    data: bytes


def parse_hello(message: str | bytes) -> Hello:
    """Parse the first message. Raises MessageError for any other."""
    fields = _fields(message, "hello")
    if fields.get("version") != VERSION:
        raise MessageError(f"version must be {VERSION}, not {_short(fields.get('version'))}")
    token, want = fields.get("token") or "", fields.get("want", [])
    if not isinstance(token, str) or len(token) > LONGEST_TOKEN:
        raise MessageError(f"token must be a string of at most {LONGEST_TOKEN} characters")
    if not isinstance(want, list):
        raise MessageError(f"want must be a list, not {_short(want)}")
    if unknown := [name for name in want if name not in get_args(Want)]:
        raise MessageError(f"want may name {', '.join(get_args(Want))}, not {_short(unknown[0])}")
    depth = _one_of(fields, "depth", get_args(DepthFormat), "float16")
    return Hello(token, frozenset(want), depth, isinstance(message, str))


def parse_frame(message: str | bytes) -> FrameMessage:
    """Parse a later message. Raises MessageError unless it is a frame."""
    fields = _fields(message, "frame")
    number, timestamp = fields.get("id"), fields.get("timestamp")
    if type(number) is not int or not 0 <= number < LARGEST_ID:
        raise MessageError(f"id must be a whole number from 0 to 2⁵³ − 1, not {_short(number)}")
    try:
        if timestamp is not None and (type(timestamp) not in (int, float) or not math.isfinite(timestamp)):
            raise MessageError(f"timestamp must be a finite number of seconds, not {_short(timestamp)}")
        data = fields.get("data")
        if isinstance(message, str) and isinstance(data, str):
            data = base64.b64decode(data, validate=True)
        if not isinstance(data, bytes) or not data:
            raise MessageError("data must be the bytes of a frame")
        kind = _one_of(fields, "format", get_args(FrameFormat), "jpeg")
    except (ValueError, OverflowError) as error:  # those above, base64's, and that of an integer too large for a float
        raise MessageError(str(error), number) from None
    return FrameMessage(number, None if timestamp is None else float(timestamp), kind, data)


def pack(message: Mapping[str, Any], text: bool) -> str | bytes:
    """Encode a message as JSON text or MessagePack bytes; arrays become maps of `shape`, `dtype` (little-endian) and `data`."""
    if text:
        return json.dumps(message, default=_in_json, allow_nan=False)
    return msgpack.packb(message, default=_array)


def _fields(message: str | bytes, kind: str) -> dict[str, Any]:
    """The map in a message. Raises MessageError when there is none, or its type is not `kind`."""
    try:
        if isinstance(message, str):
            found = json.loads(message, parse_constant=_no_number)
        else:
            found = msgpack.unpackb(message, strict_map_key=True, max_ext_len=0, max_map_len=16, max_array_len=16)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise MessageError(f"is neither a MessagePack nor a JSON map ({_short(error)})") from None
    if not isinstance(found, dict):
        raise MessageError(f"must be a map, not {_short(found)}")
    if found.get("type") != kind:
        raise MessageError(f"type must be {kind} here, not {_short(found.get('type'))}")
    return found


def _one_of(fields: Mapping[str, Any], name: str, known: tuple[str, ...], usual: str) -> Any:
    value = fields.get(name, usual)
    if value not in known:
        raise MessageError(f"{name} must be one of {', '.join(known)}, not {_short(value)}")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        return {"shape": list(value.shape), "dtype": value.dtype.name, "data": data}
    raise TypeError(f"{type(value).__name__} is no part of a message")


def _in_json(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else _array(value)


def _short(value: object) -> str:
    """A value for an error message: shortened, because it may be large, and without characters that UTF-8 cannot encode."""
    if isinstance(value, str | Exception):
        text = " ".join(f"{value}"[:200].split()).encode("utf-8", "replace").decode()
        return repr(text[:40] + "…" if len(text) > 40 else text)
    return f"{value}" if value is None or isinstance(value, float) else type(value).__name__
