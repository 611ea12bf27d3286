"""Text files in any common encoding: with a byte-order mark, in UTF-16 or UTF-32, or with names in another encoding."""

import codecs

ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte-order marks, longer ones first, and the codec for text that begins with each."""


def decoded(data: bytes) -> str:
    """Text of a file or line. Bytes that are not UTF-8 are kept as surrogates, as in file names.

    Raises ValueError for data that is not text.
    """
    encoding = encoding_of(data)
    return data.decode(encoding) if encoding else data.decode("utf-8", "surrogateescape")


def encoding_of(data: bytes) -> str | None:
    """The encoding by its byte-order mark; None for text without one. Raises ValueError for data that is not text."""
    encoding = next((name for mark, name in ENCODINGS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data:
        raise ValueError("it holds zero bytes")
    return encoding
