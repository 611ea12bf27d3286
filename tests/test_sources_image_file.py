"""Image files of every kind: what is read, and what is refused in which words."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from ivggt_jax.sources import SourceError, read_image, to_rgb
from ivggt_jax.sources.image_file import read_counts, read_mask, read_picture
from ivggt_jax.sources.levels import Stretch
from ivggt_jax.sources.stack import StackReader

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def read(path, **options):
    image = read_image(path, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "bmp", "ppm"])
def test_lossless_formats(tmp_path, ending):
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(PIXELS), **({"lossless": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(read(path), PIXELS)


def test_content_counts_and_not_the_name(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(PIXELS), format="PNG")
    np.testing.assert_array_equal(read(path), PIXELS)


def test_transparency_is_put_on_white(tmp_path):
    alpha = np.full((6, 8, 1), 255, np.uint8)
    alpha[:3] = 0
    expected = np.where(alpha > 0, PIXELS, 255)
    path = saved(tmp_path / "a.png", Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)))
    np.testing.assert_array_equal(read(path), expected)


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    pixels = read(saved(tmp_path / "a.png", image, transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [10, 20, 30]


def test_grey_and_cmyk(tmp_path):
    grey = read(saved(tmp_path / "a.png", Image.new("L", (4, 4), 77)))
    assert (grey == 77).all()
    cmyk = read(saved(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95))
    assert (cmyk[..., 0] > 240).all() and (cmyk[..., 1:] < 15).all()


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bits_keep_the_upper_eight(tmp_path, ending):
    values = np.array([[0, 255, 256, 30_000], [32_768, 65_279, 65_280, 65_535]], np.uint16)
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(values))
    np.testing.assert_array_equal(read(path), np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_of_an_animation_the_first_picture(tmp_path):
    pictures = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for ending in ("gif", "png", "webp"):
        options = {"lossless": True} if ending == "webp" else {}
        path = saved(tmp_path / f"a.{ending}", pictures[0], save_all=True, append_images=pictures[1:], **options)
        assert (read(path) == (255, 0, 0)).all(), ending


def test_one_pixel(tmp_path):
    assert read(saved(tmp_path / "a.png", Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


def stored(pixels, orientation):
    """The pixels as one of the eight orientations of the EXIF standard stores them, undone by the matching NumPy operation."""
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, 1),
        7: np.rot90(pixels, 2).swapaxes(0, 1),
        8: np.rot90(pixels, -1),
    }[orientation]
    return np.ascontiguousarray(turned)


@pytest.mark.parametrize(
    "options", [{"format": "PNG"}, {"format": "TIFF"}, {"format": "TIFF", "compression": "tiff_lzw"}]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, options):
    """Of colour, of 16-bit grey, and of masks; Pillow turns a TIFF by itself, and maps some from disk."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a", Image.fromarray(stored(PIXELS, orientation)), exif=exif, **options)
    np.testing.assert_array_equal(read(path), PIXELS)
    np.testing.assert_array_equal(read(path, exif=False), stored(PIXELS, orientation))
    counts = 300 * PIXELS[..., 0].astype(np.uint16)
    path = saved(tmp_path / "b", Image.fromarray(stored(counts, orientation)), exif=exif, **options)
    for upright, wanted in ((True, counts), (False, stored(counts, orientation))):
        np.testing.assert_array_equal(read_counts(path, upright), wanted)
        np.testing.assert_array_equal(np.asarray(read_mask(path, upright)), np.where(wanted > 0, 255, 0))
        picture = read_picture(path, upright, Stretch("b", list))
        assert picture.image.size == wanted.shape[::-1]


@pytest.mark.parametrize("upright", [True, False])
def test_exif_orientation_of_a_stack(tmp_path, upright):
    """Every page has its own."""
    exif = [Image.Exif() for _ in range(3)]
    for orientation, of_page in zip((6, 1, 8), exif, strict=True):
        of_page[0x0112] = orientation
    pages = [Image.fromarray(stored(PIXELS, orientation)) for orientation in (6, 1, 8)]
    written = io.BytesIO()  # not a file, which the writer would close twice
    with TiffImagePlugin.AppendingTiffWriter(written, True) as file:
        for page, of_page in zip(pages, exif, strict=True):
            page.save(file, format="TIFF", exif=of_page)
            file.newFrame()
    (tmp_path / "a.tif").write_bytes(written.getvalue())
    found = [raw.read().image for raw in StackReader(tmp_path / "a.tif", [0, 1, 2], exif=upright).raw_frames()]
    for picture, page in zip(found, pages, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), PIXELS if upright else np.asarray(page))


@pytest.mark.parametrize("white", [256, 1000, 4095, 65_534, 65_535])
@pytest.mark.parametrize("plain", [True, False])
def test_counts_of_a_pgm_are_those_of_the_file(tmp_path, white, plain):
    """Pillow stretches them to 16 bits; as a picture that is right."""
    counts = np.linspace(0, white, 48).astype(np.uint16).reshape(6, 8)
    data = " ".join(map(str, counts.ravel())).encode() + b"\n" if plain else counts.astype(">u2").tobytes()
    (tmp_path / "a.pgm").write_bytes(b"P%d 8 6 %d\n" % (2 if plain else 5, white) + data)
    np.testing.assert_array_equal(read_counts(tmp_path / "a.pgm"), counts)
    assert read(tmp_path / "a.pgm").max() == 255


def refused(path, words):
    with pytest.raises(SourceError, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_folder(tmp_path):
    refused(tmp_path / "a.png", "there is no such file")
    (tmp_path / "b.png").touch()
    refused(tmp_path / "b.png", "is empty")
    refused(tmp_path, "is a folder")


def test_not_an_image(tmp_path):
    (tmp_path / "a.png").write_text("a diary")
    refused(tmp_path / "a.png", "is not an image")
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    refused(tmp_path / "a.eps", "is not an image")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "bmp"])
def test_truncated(tmp_path, ending):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = saved(tmp_path / f"a.{ending}", picture)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "damaged or truncated|is not an image")


def test_32_bits(tmp_path):
    refused(saved(tmp_path / "a.tif", Image.new("F", (4, 4))), "32-bit pixels")
    refused(saved(tmp_path / "b.tif", Image.new("I", (4, 4))), "32-bit pixels")


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (13_000, 12_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_huge_dimensions(tmp_path, width, height):
    """A PNG of a few bytes that claims many pixels is refused before memory is taken."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    refused(tmp_path / "a.png", "too many.*; scale it down first")


def test_to_rgb_of_arrays():
    assert to_rgb(Image.fromarray(PIXELS[..., 0])).mode == "RGB"


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.array([[0, 1], [255, 0]], np.uint8)),
        Image.fromarray(np.array([[0, 1], [9000, 0]], np.uint16)),
        Image.fromarray(np.array([[0, 1], [1, 0]], bool)),
        Image.fromarray(np.array([[[0] * 3, [0, 0, 1]], [[5] * 3, [0] * 3]], np.uint8)),
    ],
    ids=["grey", "16 bits", "1 bit", "colour"],
)
def test_masks_keep_what_is_not_black(tmp_path, image):
    mask = read_mask(saved(tmp_path / "a.png", image))
    assert mask.mode == "L"
    np.testing.assert_array_equal(np.asarray(mask), [[0, 255], [255, 0]])
