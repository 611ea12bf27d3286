"""The focal length in a picture's EXIF data. It is rounded and ignores cropping, so it is offered to the user, not assumed."""

from pathlib import Path

from PIL import Image

EXIF_IFD, FOCAL_35 = 0x8769, 0xA405
"""EXIF tags: the detail directory, and the focal length in millimetres for 35 mm film."""
DIAGONAL_35 = 43.267
"""Diagonal of a picture on 35 mm film, in millimetres."""


def offered_camera(path: Path, size: tuple[int, int]) -> str | None:
    """The value for `--camera` from a picture's EXIF data, `fx,fy,cx,cy`; None if there is none. `size`: width and height."""
    try:
        with Image.open(path) as image:
            film = float(image.getexif().get_ifd(EXIF_IFD).get(FOCAL_35, 0))
    except Exception:  # decoders raise almost anything on a damaged file
        return None
    if not 5 <= film <= 2000:
        return None
    width, height = size
    focal = film / DIAGONAL_35 * (width**2 + height**2) ** 0.5
    return f"{focal:.0f},{focal:.0f},{(width - 1) / 2:g},{(height - 1) / 2:g}"
