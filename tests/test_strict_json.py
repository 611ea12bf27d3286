"""The strict reader: what JSON is comes back, and everything else is one line that names the place."""

import json
import os
import time

import pytest

from ivggt_jax.disk.strict_json import DEPTH_LIMIT, LENGTH_LIMIT, JsonError, parse_json, read_json


def nested(levels: int) -> bytes:
    return b'{"a": ' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": [1, -2.5, 1e-300, True, None, "ü\n\u2028", {"b": []}], "": {}},
        {"whole": 2**64 - 1, "negative": -(10**30)},
        {"pair": "\U0001f600", "control": "\u0000\u001b"},
        {"b": {"a": 1}, "a": {"a": 2}},
    ],
)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_what_json_writes_comes_back(tmp_path, value, ascii_only):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value, ensure_ascii=ascii_only, indent=2), encoding="utf-8")
    assert read_json(path) == value
    path.write_text(json.dumps(value, ensure_ascii=ascii_only), encoding="utf-8-sig")
    assert read_json(path) == value


@pytest.mark.parametrize(
    ("text", "because"),
    [
        (b"", "is not JSON"),
        (b" \n", "is not JSON"),
        (b"[1, 2]", "holds a list, not an object"),
        (b"null", "holds null, not"),
        (b"true", "holds true, not"),
        (b"3", "holds a number, not"),
        (b"3.5", "holds a number, not"),
        (b'"x"', "holds a text, not"),
        (b"[" * 100_000, "nested more than 64 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 64 levels"),
        (nested(100_000), "nested more than 64 levels"),
        (nested(DEPTH_LIMIT + 1), "nested more than 64 levels"),
        (b'{"a": NaN}', "NaN is not a number there"),
        (b'{"a": -Infinity}', "-Infinity is not"),
        (b'{"a": 1e999}', "a number is too large"),
        (b'{"a": [[-1e999]]}', "a number is too large"),
        (b'{"a": ' + b"9" * 5_000_000 + b"}", "a number of 5000000 digits"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the name 'c' stands twice"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b'{"\\udfff": 1}', "surrogates not allowed"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b'{"a": "\xed\xa0\x80"}', "is not JSON"),
        (b'{"a": 1}x', "Extra data"),
        (b'{"a": 1}{"a": 1}', "Extra data"),
        (b'{"a": 1,}', "is not JSON"),
        (b'{"a": 01}', "is not JSON"),
        (b"{'a': 1}", "is not JSON"),
        (b'{"a": 1', "is not JSON"),
        (b'{"a": "line\nline"}', "is not JSON"),
        (b'{"a": 1} // comment', "Extra data"),
        ('{"a": 1}'.encode("utf-16"), "is not JSON"),
        (b"\0" * 100, "is not JSON"),
        (b"\x89PNG\r\n\x1a\n", "is not JSON"),
        (b" " * LENGTH_LIMIT + b"{}", "is longer than 16 MiB"),
    ],
)
def test_everything_else_is_one_line(tmp_path, text, because):
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(JsonError, match=because) as caught:
        read_json(path)
    message = str(caught.value)
    assert message.startswith(f"{path} ") and "\n" not in message and len(message) < len(str(path)) + 200
    message.encode()


def test_as_deep_and_as_long_as_allowed():
    value = parse_json(nested(DEPTH_LIMIT) + b" " * (LENGTH_LIMIT - len(nested(DEPTH_LIMIT))), "text")
    for _ in range(DEPTH_LIMIT):
        value = value["a"]
    assert value == 1


def test_many_equal_names_are_found_at_once():
    names = ", ".join(f'"{i}": 0' for i in range(200_000))
    begin = time.perf_counter()
    with pytest.raises(JsonError, match="'199999' stands twice"):
        parse_json(f'{{{names}, "199999": 0}}'.encode(), "text")
    assert time.perf_counter() - begin < 20  # comparing each with each would take minutes


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for place, because in (
        (tmp_path / "pipe", "is not a file"),
        (tmp_path, "is not a file"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / "loop", "cannot be read"),
        (tmp_path / "pipe" / "below", "cannot be read: Not a directory"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
    ):
        with pytest.raises(JsonError, match=because):
            read_json(place)
