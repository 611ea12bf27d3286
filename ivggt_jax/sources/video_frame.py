"""Converts a decoded video frame to a picture: upright, square pixels, eight bits, alpha as a mask."""

import struct
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from ivggt_jax.sources import hdr
from ivggt_jax.sources.frame import Picture
from ivggt_jax.sources.image_file import opaque_part, to_rgb
from ivggt_jax.sources.levels import Stretch, to_8_bits

TURNS = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""Display matrix (a, b, c, d), with x' = a·x + c·y and y' = b·x + d·y in image axes → the transpose that turns the picture
upright."""


def to_picture(frame: VideoFrame, aspect: float, stretch: Stretch) -> Picture:
    """The picture of a frame. Raises whatever the scaler raises for a damaged one.

    aspect: width of a stored pixel over its height. stretch: provides the levels of 16-bit grey.
    """
    levels, opaque = None, None
    if is_grey_16(frame):
        values = grey_16(frame)
        levels = stretch.levels(values)
        image = Image.fromarray(to_8_bits(values, levels)).convert("RGB")
    elif any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8":
        with_alpha = Image.fromarray(frame.to_ndarray(format="rgba"), "RGBA")
        image, opaque = to_rgb(with_alpha), opaque_part(with_alpha)
    elif frame.color_trc in hdr.NAMES:
        # From 16 bits, because a step of eight in PQ is three in ordinary video.
        deep = frame.to_ndarray(format="rgb48le")
        image = Image.fromarray(hdr.tone_mapped(deep, frame.color_trc, frame.color_primaries))
    else:
        image = frame.to_image()
    return Picture(_shown(image, frame, aspect, Image.Resampling.BICUBIC), _masked(opaque, frame, aspect), levels)


def is_grey_16(frame: VideoFrame) -> bool:
    """Whether a frame is 16-bit grey, whose range is unknown."""
    return frame.format.name in ("gray16le", "gray16be")


def grey_16(frame: VideoFrame) -> np.ndarray:
    """The frame's values, uint16 [H,W]."""
    return frame.to_ndarray(format="gray16le").astype(np.uint16)


def _masked(opaque: Image.Image | None, frame: VideoFrame, aspect: float) -> Image.Image | None:
    return None if opaque is None else _shown(opaque, frame, aspect, Image.Resampling.NEAREST)


def _shown(image: Image.Image, frame: VideoFrame, aspect: float, resampling: Image.Resampling) -> Image.Image:
    """Make pixels square, by enlarging one side, and turn the picture upright."""
    if aspect > 1:
        image = image.resize((round(image.width * aspect), image.height), resampling)
    elif aspect < 1:
        image = image.resize((image.width, round(image.height / aspect)), resampling)
    turn = _turn(frame)
    return image if turn is None else image.transpose(turn)


def _turn(frame: VideoFrame) -> Image.Transpose | None:
    """The transpose that turns a frame upright, from its display matrix: nine 16.16 fixed-point numbers, for row vectors."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d, *_ = (round(value / 65536) for value in struct.unpack("=9i", bytes(matrix)))
    return TURNS.get((a, b, c, d))
