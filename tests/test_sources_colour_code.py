"""Pictures of high dynamic range and of more than eight bits: tone-mapped, or a line that says what becomes of them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from ivggt_jax.sources import SourceConfig, hdr, open_source, read_image
from ivggt_jax.sources.colour_code import high_range
from ivggt_jax.writers.images import _facts

GREY = np.repeat(np.array([40, 80, 120, 160, 200, 230]), 16)
"""Of ordinary pictures, in columns."""
PQ_SIGNAL, HLG_SIGNAL = (
    np.interp(GREY, hdr.ordinary(steps[:, None].repeat(3, 1), transfer, False)[:, 0], steps)
    for transfer, steps in ((hdr.PQ, np.arange(40_000, dtype=np.uint16)), (hdr.HLG, np.arange(56_000, dtype=np.uint16)))
)
"""Of 65,535, by the function that the tests of videos check against BT.2100."""
PROFILE = bytes(128) + struct.pack(">I4s2I", 1, b"cicp", 144, 12) + b"cicp" + bytes(4)


def picture(signal: np.ndarray) -> np.ndarray:
    """uint16 [56, 96, 3]"""
    return np.tile(np.rint(signal).astype(np.uint16)[None, :, None], (56, 1, 3))


def eight(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def png(path: Path, values: np.ndarray, *chunks: tuple[bytes, bytes]) -> None:
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    whole = (
        (b"IHDR", struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""),
    )  # fmt: skip
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in whole
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def heic(path: Path, values: np.ndarray, bits: int, transfer: int) -> None:
    image = pillow_heif.from_bytes("RGB;16", (values.shape[1], values.shape[0]), values.tobytes())
    image.save(
        str(path), quality=-1, chroma=444, bit_depth=bits, save_nclx_profile=True, color_primaries=9,
        transfer_characteristics=transfer, matrix_coefficients=9, full_range_flag=1,
    )  # fmt: skip


def avif(path: Path, values: np.ndarray, transfer: int) -> None:
    """Pillow writes sRGB's numbers into the colour box: others take their place."""
    encoded = io.BytesIO()
    eight(values).save(encoded, "AVIF", quality=100)
    data = bytearray(encoded.getvalue())
    place = data.index(b"colrnclx") + 8
    data[place : place + 4] = struct.pack(">2H", 9, transfer)
    path.write_bytes(data)


def with_profile(path: Path, values: np.ndarray, profile: bytes) -> None:
    eight(values).save(path, icc_profile=profile, **({"quality": 100} if path.suffix == ".jpg" else {"lossless": True}))


def cicp(transfer: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes((9, transfer, 0, 1))


HIGH = {
    "pq.png": lambda path: png(path, picture(PQ_SIGNAL), cicp(hdr.PQ)),
    "hlg.png": lambda path: png(path, picture(HLG_SIGNAL), cicp(hdr.HLG)),
    "pq10.heic": lambda path: heic(path, picture(PQ_SIGNAL), 10, hdr.PQ),
    "pq12.heic": lambda path: heic(path, picture(PQ_SIGNAL), 12, hdr.PQ),
    "hlg10.heic": lambda path: heic(path, picture(HLG_SIGNAL), 10, hdr.HLG),
    "pq.avif": lambda path: avif(path, picture(PQ_SIGNAL), hdr.PQ),
    "hlg.avif": lambda path: avif(path, picture(HLG_SIGNAL), hdr.HLG),
    "profile.jpg": lambda path: with_profile(path, picture(PQ_SIGNAL), PROFILE + bytes((9, hdr.PQ, 0, 1))),
    "profile.webp": lambda path: with_profile(path, picture(HLG_SIGNAL), PROFILE + bytes((9, hdr.HLG, 0, 1))),
    "profile.tif": lambda path: with_profile(path, picture(PQ_SIGNAL), PROFILE + bytes((9, hdr.PQ, 0, 1))),
    "named.png": lambda path: with_profile(path, picture(PQ_SIGNAL), bytes(132) + b"ITUR_2100_PQ_FULL"),
    "wide_named.png": lambda path: with_profile(
        path, picture(PQ_SIGNAL), bytes(132) + "ITUR_2100_PQ".encode("utf-16-be")
    ),
}


@pytest.mark.parametrize("name", HIGH)
def test_high_dynamic_range_comes_out_as_ordinary(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Within 6 of 255: a step of PQ in eight bits is three of an ordinary picture; said once for two files."""
    for copy in ("a", "b"):
        HIGH[name](tmp_path / f"{copy}{Path(name).suffix}")
    with open_source(SourceConfig(frames=str(tmp_path), size=98)) as source:
        first, _ = source
    columns = (np.arange(6) * 16 + 8) * 98 // 96
    np.testing.assert_allclose(first.image[28, columns], np.tile(GREY[::16, None], 3), atol=6)
    curve = "HLG" if "hlg" in name or name.endswith("webp") else "PQ"
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: pictures in {curve} (high dynamic range) are tone-mapped to ordinary ones"
    ]
    facts = _facts(first.path)
    assert facts is not None and not facts.plain  # so that COLMAP gets the tone-mapped one


@pytest.mark.parametrize("name", ["full.png", "ten.heic", "twelve.heic", "srgb.avif", "p3.jpg", "damaged.jpg"])
def test_ordinary_pictures_of_any_depth_stay_as_they_are(name: str, tmp_path: Path, caplog) -> None:
    values, path = picture(257.0 * GREY), tmp_path / name
    if name == "full.png":
        png(path, values, cicp(13))
    elif name.endswith("heic"):
        heic(path, values, 10 if name == "ten.heic" else 12, 1)
    elif name == "srgb.avif":
        avif(path, values, 13)
    else:
        with_profile(path, values, PROFILE + bytes((12, 13, 0, 1)) if name == "p3.jpg" else PROFILE[:140])
    with open_source(SourceConfig(frames=str(path), size=98)) as source:
        (frame,) = source
    np.testing.assert_allclose(frame.image[28, (np.arange(6) * 16 + 8) * 98 // 96, 0], GREY[::16], atol=2)
    assert not caplog.records


def test_transparency_of_a_high_range_picture_is_white(tmp_path: Path) -> None:
    image = eight(picture(PQ_SIGNAL))
    image.putalpha(Image.new("L", image.size, 0))
    image.save(tmp_path / "a.png", icc_profile=PROFILE + bytes((9, hdr.PQ, 0, 1)))
    assert (np.asarray(read_image(tmp_path / "a.png")) == 255).all()


@pytest.mark.parametrize("code", [b"", b"\x09", b"\x09\x10"])
def test_a_cut_colour_code_is_none(code: bytes, tmp_path: Path) -> None:
    with_profile(tmp_path / "a.tif", picture(PQ_SIGNAL), PROFILE + code)
    with Image.open(tmp_path / "a.tif") as image:
        assert (high_range(image) is not None) == (len(code) == 2)


def test_twelve_bits_of_colour_in_sixteen_are_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        png(tmp_path / f"{name}.png", picture(16.0 * GREY))
    with open_source(SourceConfig(frames=str(tmp_path), size=98)) as source:
        assert len(list(source)) == 2
    (record,) = caplog.records
    assert (
        "16-bit colour that uses 12 bits at most comes out nearly black: scale it to the full range"
        in record.getMessage()
    )
