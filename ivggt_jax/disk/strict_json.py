"""The one way to read JSON: a single object, limited in length and depth, and nothing beyond the JSON standard."""

import codecs
import json
import math
import stat
from pathlib import Path
from typing import Any

LENGTH_LIMIT = 16 * 2**20
"""In bytes."""
DEPTH_LIMIT = 64
"""Nesting of objects and lists."""
_DIGITS = 40
"""Most digits of an integer: more than any count, size or checksum has."""


class JsonError(ValueError):
    """A file or text is not the expected JSON object; the message is one line."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a file with one JSON object, at most 16 MiB long and 64 levels deep.

    Raises JsonError, naming the file, when it is missing, cannot be read or holds anything else; see `parse_json`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise JsonError(f"{path} is not a file")  # reading a pipe would wait, and a device has no end
        with path.open("rb") as file:
            text = file.read(LENGTH_LIMIT + 1)
    except FileNotFoundError:
        raise JsonError(f"{path} does not exist") from None
    except OSError as error:
        raise JsonError(f"{path} cannot be read: {error.strerror or error}") from None
    return parse_json(text, f"{path}")


def parse_json(text: bytes, what: str) -> dict[str, Any]:
    """Parse one JSON object in UTF-8. It may begin with a byte-order mark, which some editors write.

    Besides invalid JSON this rejects duplicate names in an object, numbers outside the range of floats, and unpaired surrogates,
    which can neither be printed nor name a file. Raises JsonError, whose message begins with `what`.
    """
    if len(text) > LENGTH_LIMIT:
        raise JsonError(f"{what} is longer than {LENGTH_LIMIT >> 20} MiB")
    try:
        plain = text.removeprefix(codecs.BOM_UTF8).decode("utf-8")
        value = json.loads(plain, object_pairs_hook=_object, parse_int=_whole, parse_constant=_refuse_constant)
        _check(value)
    except RecursionError:
        raise JsonError(f"{what} is nested more than {DEPTH_LIMIT} levels deep") from None
    except ValueError as error:
        raise JsonError(f"{what} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise JsonError(f"{what} holds {_describe(value)}, not an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name[:80]!r} stands twice in one object")
        found[name] = value
    return found


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number there")


def _check(value: object) -> None:
    """Raises RecursionError for too deep nesting, ValueError for a number or text that cannot be used."""
    level = [value]
    for _ in range(DEPTH_LIMIT + 1):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
                "".join(item).encode()
            elif isinstance(item, list):
                inner.extend(item)
            elif isinstance(item, str):
                item.encode()
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError("a number is too large")
        level = inner
    if level:
        raise RecursionError


def _describe(value: object) -> str:
    """The type of a value that is not an object, in JSON's terms."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "a number"
