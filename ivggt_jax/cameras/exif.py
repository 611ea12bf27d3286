"""The focal length that a camera wrote into its picture: rounded, of the lens and not of the crop, so offered and not assumed."""

from pathlib import Path

from PIL import Image

EXIF_IFD, FOCAL_35 = 0x8769, 0xA405
"""EXIF tags: where the details lie, and the focal length in millimetres on 35 mm film."""
DIAGONAL_35 = 43.267
"""Millimetres of a picture on 35 mm film, from corner to corner."""


def offered_camera(path: Path, size: tuple[int, int]) -> str | None:
    """What `--camera` would be by a picture's EXIF, `fx,fy,cx,cy`; None where that says nothing. `size`: its width and height."""
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
