"""How picture files say that they are of high dynamic range: by the numbers of ITU-T H.273, as videos do.

PNG's cICP chunk (PNG, third edition), the `nclx` colour box of HEIC and AVIF (ISO/IEC 14496-12), and the `cicp` tag of an
ICC profile (ICC.1:2022), which any kind of file may hold. A profile by the name that the W3C once gave to PQ counts too.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from PIL import Image

from ivggt_jax.sources.hdr import BT2020, NAMES, PQ

HEAD = 1 << 16
"""Bytes at the beginning of a file that its colour is looked for in."""
NAME_OF_PQ = re.compile(b"\0?".join(bytes([letter]) for letter in b"ITUR_2100_PQ"))
"""In a profile's description, whose letters have one byte or two."""


@dataclass(frozen=True)
class ColourCode:
    """What values mean, by the numbers of H.273."""

    primaries: int
    transfer: int


def high_range(image: Image.Image) -> ColourCode | None:
    """The colour code of an opened picture whose values follow PQ or HLG; None for ordinary ones.

    To be called before it is loaded: Pillow tells the code of none but HEIC, and the file is closed then.
    """
    for code in _codes(image):
        return code if code.transfer in NAMES else None
    return None


def _codes(image: Image.Image) -> Iterator[ColourCode]:
    """What the file says, what counts most first."""
    if image.format in ("PNG", "AVIF"):
        place = re.search(rb"cICP(..)" if image.format == "PNG" else rb"colrnclx.(.).(.)", _head(image), re.DOTALL)
        if place:
            yield ColourCode(*b"".join(place.groups()))
    if nclx := image.info.get("nclx_profile"):
        yield ColourCode(int(nclx["color_primaries"]), int(nclx["transfer_characteristics"]))
    if code := _of_profile(image.info.get("icc_profile") or b""):
        yield code


def _head(image: Image.Image) -> bytes:
    """The file's first bytes: of a PNG up to its pixels."""
    file: IO[bytes] | None = getattr(image, "fp", None)
    if file is None:
        return b""
    place = file.tell()
    file.seek(0)
    head = file.read(HEAD)
    file.seek(place)
    return head.partition(b"IDAT")[0] if image.format == "PNG" else head


def _of_profile(profile: bytes) -> ColourCode | None:
    """By the tag table behind a header of 128 bytes: a count, then signature, offset and size of each."""
    count = int.from_bytes(profile[128:132], "big")
    for entry in range(132, min(132 + 12 * count, len(profile) - 11), 12):
        signature, offset, _ = struct.unpack_from(">4s2I", profile, entry)
        if signature == b"cicp" and (code := profile[offset + 8 : offset + 10]):
            return ColourCode(*code) if len(code) == 2 else None
    return ColourCode(BT2020, PQ) if NAME_OF_PQ.search(profile) else None
