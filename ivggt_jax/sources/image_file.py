"""Decodes image files of all kinds that cameras and tools write, to upright RGB."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from pillow_heif import register_heif_opener

from ivggt_jax.sources import hdr
from ivggt_jax.sources.colour_code import high_range
from ivggt_jax.sources.frame import LARGEST_IMAGE, Levels, Picture, SourceError
from ivggt_jax.sources.levels import Stretch, to_8_bits

register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "PPM", "GIF", "HEIF", "AVIF", "JPEG2000", "QOI", "SGI", "PCX")
"""Formats that are opened, recognised by content, not by name. (Pillow knows more, but some of them run other programs.)"""

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm",
    ".pbm", ".pnm", ".gif", ".heic", ".heif", ".hif", ".heics", ".heifs", ".avif", ".avifs", ".jp2", ".j2k", ".j2c",
    ".jpc", ".jpf", ".jpx", ".tga", ".qoi", ".sgi", ".pcx",
)  # fmt: skip
"""Suffixes by which image files are found in a folder."""

OTHER_SUFFIXES = (
    ".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f",
    ".3fr", ".iiq", ".gpr", ".erf", ".kdc", ".dcr", ".mrw", ".exr", ".hdr", ".pfm", ".jxl", ".jxr", ".psd", ".svg", ".eps",
    ".ico", ".icns", ".dds", ".fits", ".insp", ".xcf", ".kra", ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".insv",
)  # fmt: skip
"""Suffixes of pictures and videos that are skipped in a folder, and reported."""

PLAIN_SUFFIX_OF_TGA = ".tga"
"""Targa files have no signature; only this suffix identifies them."""

HIGH_RANGE = "ivggt high range"
"""Key under which `decode` stores the colour code of a PQ or HLG picture in Pillow's info."""

DEEP = "ivggt deep"
"""The same for whether it has 16 bits."""

WHITE = "ivggt white"
"""The same for the largest value that the head of a PGM with 16 bits names, which Pillow stretches to 65,535."""

NEARLY_BLACK = 16
"""Upper eight of 16 bits below which all 12-bit values lie."""

REDUCED_OR_MASK = 0b101
"""Bits of a TIFF page's NewSubfileType that mark a page that is not a picture of its own."""


def read_image(path: Path, exif: bool = True, levels: Levels | None = None) -> Image.Image:
    """Read one image file.

    Transparent parts are put on white; palette, grey and CMYK become RGB; PQ and HLG are tone-mapped (`hdr`); of several pictures
    the first is taken.

    Args:
        path: of the file.
        exif: turn the image upright by its EXIF orientation.
        levels: for 16-bit grey, the values mapped to black and white; None keeps its upper eight bits.

    Returns:
        RGB image.

    Raises:
        SourceError: the file is missing, empty, truncated, not an image, too large, or has 32-bit pixels.
    """
    with _opened(path, exif) as image:
        return to_rgb(image, levels)


def read_picture(path: Path, exif: bool, stretch: Stretch) -> Picture:
    """Read one image file with the mask of its transparency. Raises SourceError like `read_image`.

    stretch: provides the levels of 16-bit grey.
    """
    with _opened(path, exif) as image:
        return to_picture(image, exif, stretch)


def to_picture(image: Image.Image, exif: bool, stretch: Stretch) -> Picture:
    """A decoded image with the mask of its transparency; arguments as for `read_picture`. Raises SourceError like `to_rgb`."""
    if exif:
        ImageOps.exif_transpose(image, in_place=True)
    levels = stretch.levels(grey_16(image)) if is_grey_16(image) else None
    rgb = to_rgb(image, levels)
    if code := image.info.get(HIGH_RANGE):
        name = hdr.NAMES[code.transfer]
        stretch.tell_once(f"pictures in {name} (high dynamic range) are tone-mapped to ordinary ones")
    if image.info.get(DEEP) and np.asarray(rgb.getextrema()).max() < NEARLY_BLACK:
        stretch.tell_once("16-bit colour that uses 12 bits at most comes out nearly black: scale it to the full range")
    return Picture(rgb, opaque_part(image), levels)


def read_mask(path: Path, exif: bool = True) -> Image.Image:
    """Read one mask file: any image file, black (all channels 0) or transparent (alpha 0) where pixels are to be ignored.

    Returns:
        image of mode L, 0 or 255. Raises SourceError like `read_image`.
    """
    with _opened(path, exif) as image:
        pixels = np.asarray(image if image.mode[0] in "IF" else image.convert("RGB"))
        keep = pixels != 0 if pixels.ndim == 2 else pixels.any(axis=2)
        if (opaque := opaque_part(image)) is not None:
            keep &= np.asarray(opaque) > 0
        return Image.fromarray(keep.astype(np.uint8) * 255)


def to_rgb(image: Image.Image, levels: Levels | None = None) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB with transparent parts on white; levels as in `read_image`.

    Raises SourceError for 32-bit integers and floats, whose white level is unknown.
    """
    if is_grey_16(image):
        grey = Image.fromarray(to_8_bits(grey_16(image), levels))
        if (opaque := opaque_part(image)) is not None:
            grey.paste(255, mask=ImageChops.invert(opaque))
        return grey.convert("RGB")
    if image.mode in ("I", "F"):
        raise SourceError("has 32-bit pixels, whose range is unknown; convert it to 8 or 16 bits")
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if code := image.info.get(HIGH_RANGE):
        mapped = Image.fromarray(hdr.tone_mapped(np.asarray(image.convert("RGB")), code.transfer, code.primaries))
        if image.mode == "RGBA":
            mapped.putalpha(image.getchannel("A"))
        image = mapped
    if image.mode == "RGB":
        return image
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def opaque_part(image: Image.Image) -> Image.Image | None:
    """Mode L, 0 where an image of any mode is fully transparent, 255 elsewhere; None if nothing is."""
    if not image.has_transparency_data:
        return None
    if is_grey_16(image):
        alpha = Image.fromarray(np.where(grey_16(image) == image.info["transparency"], 0, 255).astype(np.uint8))
    else:
        alpha = image.convert("RGBA").getchannel("A")
    return alpha.point([0] + [255] * 255) if alpha.getextrema()[0] == 0 else None


def is_grey_16(image: Image.Image) -> bool:
    """Whether an image is 16-bit grey."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def grey_16(image: Image.Image) -> np.ndarray:
    """The image's values, uint16 [H,W]."""
    return np.asarray(image).astype(np.uint16)


def read_counts(path: Path, exif: bool = True) -> np.ndarray | None:
    """The values, uint16 [H,W], of a 16-bit grey file, such as a depth map; None if it is another picture.

    They are those of the file, also where Pillow stretches them, as in a PGM whose white is not 65,535. Raises SourceError when
    the file cannot be read.
    """
    with _opened(path, exif) as image:
        if not is_grey_16(image):
            return None
        values, white = grey_16(image), image.info[WHITE]
        return values if white is None else np.rint(values * (white / 65_535)).astype(np.uint16)


def grey_16_of(path: Path, page: int = 0) -> np.ndarray | None:
    """The values, uint16 [H,W], of a 16-bit grey picture; None if it is another one, or cannot be read."""
    try:
        with _opened(path, False, page) as image:
            return grey_16(image) if is_grey_16(image) else None
    except SourceError:
        return None


def pages(path: Path) -> list[int]:
    """Pages of a file that are pictures of their own: all of a stack or an animation, else the first.

    Reduced copies and masks in a TIFF do not count, nor what a camera adds for other screens (MPO). [] for a file that is damaged
    or not an image.
    """
    try:
        with Image.open(path, formats=_formats(path)) as image:
            count = getattr(image, "n_frames", 1)
            if count == 1 or image.format in ("MPO", "JPEG"):
                return [0]
            if image.format != "TIFF":
                still = bool(image.info.get("default_image"))  # an APNG's default image is not part of the animation
                return list(range(still, count))
            found = []
            for page in range(count):
                image.seek(page)
                if not image.tag_v2.get(254, 0) & REDUCED_OR_MASK:  # type: ignore[attr-defined]
                    found.append(page)
            return found or [0]
    except Exception:  # decoders raise almost anything on a damaged file
        return []


def _formats(path: Path) -> tuple[str, ...]:
    return (*FORMATS, "TGA") if path.suffix.lower() == PLAIN_SUFFIX_OF_TGA else FORMATS


def decode(image: Image.Image, page: int = 0, exif: bool = True) -> None:
    """Decode a page of an opened image; without `exif` a TIFF stays as it is stored, as other formats do anyway.

    Raises SourceError when it is too large, and whatever the decoder raises.
    """
    image.seek(page)
    if image.width * image.height > LARGEST_IMAGE:
        raise SourceError(f"{image.width}×{image.height} pixels are too many; scale it down first")
    high, deep, white = high_range(image), is_deep(image), _white(image)
    if isinstance(image, TiffImageFile):
        _load_tiff(image, exif)
    else:
        image.load()
    image.info[HIGH_RANGE], image.info[DEEP], image.info[WHITE] = high, deep, white


def _load_tiff(image: TiffImageFile, exif: bool) -> None:
    """Load a TIFF, which Pillow would always turn by its orientation, and might map from disk in the turned size."""
    tags = image.getexif()
    orientation = tags.pop(ExifTags.Base.Orientation, 1)
    image._size = image._tile_size
    image.load()
    if exif:
        tags[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(image, in_place=True)


def _white(image: Image.Image) -> int | None:
    """The value to be stretched to 65,535 while an opened PGM with 16 bits is loaded; None where there is none."""
    if image.format != "PPM" or image.mode != "I":
        return None
    words = image.tile[0].args  # type: ignore[attr-defined]
    return int(words[-1]) if isinstance(words, tuple) else None


def is_deep(image: Image.Image) -> bool:
    """Whether an opened picture, before loading, is stored with 16 bits."""
    tiles = getattr(image, "tile", [])
    stored = (tile[3] if isinstance(tile[3], str) else (tile[3] or ("",))[0] for tile in tiles)
    return any("16" in str(mode) for mode in stored)


@contextmanager
def _opened(path: Path, exif: bool, page: int = 0) -> Iterator[Image.Image]:
    """Open and decode a file. Any error here, or with the image in the block, becomes a SourceError with the file's name."""
    try:
        if not path.is_file():
            raise SourceError(no_file(path))
        if path.stat().st_size == 0:
            raise SourceError("is empty (zero bytes)")
        with Image.open(path, formats=_formats(path)) as image:
            decode(image, page, exif)
            if exif:
                ImageOps.exif_transpose(image, in_place=True)
            yield image
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        from ivggt_jax.sources.misnamed import misnamed  # it imports this module

        what = misnamed(path) or f"is not an image ({', '.join(FORMATS)})"
        raise SourceError(f"{path}: {what}") from None
    except Image.DecompressionBombError as error:
        raise SourceError(f"{path}: has too many pixels; scale it down first ({error})") from None
    except MemoryError:
        raise SourceError(f"{path}: has too many pixels for the memory; scale it down first") from None
    except (
        Exception
    ) as error:  # decoders raise almost anything on a damaged file: struct.error, SyntaxError, KeyError …
        if isinstance(error, OSError) and error.errno:
            raise SourceError(f"{path}: cannot be opened ({error.strerror})") from None
        raise SourceError(f"{path}: is damaged or truncated ({reason(error)})") from error


def reason(error: Exception) -> str:
    """A decoder's error message, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def no_file(path: Path) -> str:
    """Why a path is not a file."""
    if path.is_dir():
        return "is a folder"
    if path.is_symlink():
        return f"is a link to {os.readlink(path)}, and there is no such file"
    return "is no file but a pipe or a device" if path.exists() else "there is no such file"
