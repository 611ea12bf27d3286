"""How picture files declare high dynamic range: by the code points of ITU-T H.273, as videos do.

They are in PNG's cICP chunk (PNG, third edition), in the `nclx` colour box of HEIC and AVIF (ISO/IEC 14496-12), and in the `cicp`
tag of an ICC profile (ICC.1:2022), which any format may contain. A profile with the name that the W3C once gave to PQ counts too.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from PIL import Image

from ivggt_jax.sources.hdr import BT2020, NAMES, PQ

HEAD = 1 << 16
"""Number of bytes at the start of a file in which its colour code is searched."""
NAME_OF_PQ = re.compile(b"\0?".join(bytes([letter]) for letter in b"ITUR_2100_PQ"))
"""Name in a profile's description, whose characters have one or two bytes."""


@dataclass(frozen=True)
class ColourCode:
    """The meaning of pixel values, as code points of H.273."""

    primaries: int
    transfer: int


def high_range(image: Image.Image) -> ColourCode | None:
    """The colour code of an opened picture with PQ or HLG values; None for ordinary ones.

    Call it before loading: except for HEIC, Pillow does not provide the code, and loading closes the file.
    """
    for code in _codes(image):
        return code if code.transfer in NAMES else None
    return None


def _codes(image: Image.Image) -> Iterator[ColourCode]:
    """The codes in the file, in order of precedence."""
    if image.format in ("PNG", "AVIF"):
        place = re.search(rb"cICP(..)" if image.format == "PNG" else rb"colrnclx.(.).(.)", _head(image), re.DOTALL)
        if place:
            yield ColourCode(*b"".join(place.groups()))
    if nclx := image.info.get("nclx_profile"):
        yield ColourCode(int(nclx["color_primaries"]), int(nclx["transfer_characteristics"]))
    if code := _of_profile(image.info.get("icc_profile") or b""):
        yield code


def _head(image: Image.Image) -> bytes:
    """The file's first bytes; for a PNG, up to its pixels."""
    file: IO[bytes] | None = getattr(image, "fp", None)
    if file is None:
        return b""
    place = file.tell()
    file.seek(0)
    head = file.read(HEAD)
    file.seek(place)
    return head.partition(b"IDAT")[0] if image.format == "PNG" else head


def _of_profile(profile: bytes) -> ColourCode | None:
    """From the tag table after the 128-byte header: a count, then signature, offset and size of each tag."""
    count = int.from_bytes(profile[128:132], "big")
    for entry in range(132, min(132 + 12 * count, len(profile) - 11), 12):
        signature, offset, _ = struct.unpack_from(">4s2I", profile, entry)
        if signature == b"cicp" and (code := profile[offset + 8 : offset + 10]):
            return ColourCode(*code) if len(code) == 2 else None
    return ColourCode(BT2020, PQ) if NAME_OF_PQ.search(profile) else None
