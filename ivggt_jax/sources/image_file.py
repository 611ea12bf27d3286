"""Image files, of every kind that cameras and tools write, to upright RGB."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ivggt_jax.sources.frame import LARGEST_IMAGE, SourceError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF")
"""The kinds of file that are opened, told by content and not by name. (Pillow knows more; some run other programs.)"""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".gif")
"""Endings by which image files are found in a folder."""


def read_image(path: Path, exif: bool = True) -> Image.Image:
    """Read one image file.

    Transparency is put on white; 16-bit pixels keep their upper eight bits; palette, grey and CMYK become RGB; of an
    animation the first picture is taken.

    Args:
        path: of the file.
        exif: turn the image upright by its EXIF orientation.

    Returns:
        RGB image.

    Raises:
        SourceError: the file is missing, empty, truncated, not an image, too large, or has 32-bit pixels.
    """
    with _opened(path, exif) as image:
        return to_rgb(image)


def read_mask(path: Path, exif: bool = True) -> Image.Image:
    """Read one mask file: any image file, black (all channels 0) where pixels are to be ignored.

    Returns:
        image of mode L, 0 or 255. Raises SourceError as `read_image` does.
    """
    with _opened(path, exif) as image:
        pixels = np.asarray(image if image.mode[0] in "IF" else image.convert("RGB"))
        keep = pixels != 0 if pixels.ndim == 2 else pixels.any(axis=2)
        return Image.fromarray(keep.astype(np.uint8) * 255)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB with eight bits, transparency on white.

    Raises SourceError for 32-bit integers and floats, whose white is unknown.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise SourceError("has 32-bit pixels, whose range is unknown; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


@contextmanager
def _opened(path: Path, exif: bool) -> Iterator[Image.Image]:
    """Open and decode a file; whatever goes wrong here or with the image inside becomes a SourceError with its name."""
    try:
        if not path.is_file():
            raise SourceError("is a folder" if path.is_dir() else "there is no such file")
        if path.stat().st_size == 0:
            raise SourceError("is empty (zero bytes)")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise SourceError(f"{image.width}×{image.height} pixels are too many; scale it down first")
            image.load()
            if exif:
                ImageOps.exif_transpose(image, in_place=True)
            yield image
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise SourceError(f"{path}: is not an image ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError as error:
        raise SourceError(f"{path}: has too many pixels; scale it down first ({error})") from None
    except MemoryError:
        raise SourceError(f"{path}: has too many pixels for the memory; scale it down first") from None
    except PermissionError as error:
        raise SourceError(f"{path}: cannot be opened ({error.strerror})") from None
    except (
        Exception
    ) as error:  # decoders raise almost anything on a damaged file: struct.error, SyntaxError, KeyError …
        raise SourceError(f"{path}: is damaged or truncated ({error or type(error).__name__})") from error
