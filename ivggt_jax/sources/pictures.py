"""Fits any picture to the model's input."""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ivggt_jax.sources import fit_image, read_image, to_rgb


def fit(
    picture: str | Path | Image.Image | np.ndarray,
    size: int = 518,
    mode: Literal["crop", "pad"] = "crop",
    *,
    like: np.ndarray | None = None,
) -> np.ndarray:
    """Fit a picture of any size to the model's input: uint8 [H,W,3] with sides that are multiples of 14.

    Args:
        picture: a file (turned upright by its EXIF orientation), a Pillow image, or an array [H,W,3] or [H,W], uint8 or
            floats in [0,1].
        size: width in pixels, a multiple of 14; best is the size of the model's training, `model.config.image_size`.
        mode: `crop`: full width; tall pictures lose top and bottom. `pad`: nothing is lost; white padding makes a square.
        like: an array [H,W,3] whose size the result must have, because all frames of a stream have the first one's size.

    Raises ValueError for something that is not a picture; SourceError if it is a file.
    """
    if isinstance(picture, str | Path):
        image = read_image(Path(picture))
    elif isinstance(picture, Image.Image):
        image = to_rgb(picture)
    else:
        image = to_rgb(Image.fromarray(_bytes(picture)))
    return fit_image(image, size, mode, None if like is None else (like.shape[1], like.shape[0]))[0]


def _bytes(picture: np.ndarray) -> np.ndarray:
    """A picture as uint8, from uint8 or floats in [0,1]."""
    grey_or_colour = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[-1] == 3)
    if not grey_or_colour or not (picture.dtype == np.uint8 or np.issubdtype(picture.dtype, np.floating)):
        raise ValueError(
            f"a picture is [H,W,3] or [H,W], uint8 or floats in [0,1], not {picture.dtype} {list(picture.shape)}"
        )
    if (
        picture.dtype != np.uint8 and picture.size and picture.max() > 2
    ):  # interpolation may make a little more than 1 of white
        raise ValueError(
            f"a picture of floats must be in [0,1], but one is {picture.max():g}: divide by 255, or give uint8"
        )
    return picture if picture.dtype == np.uint8 else np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
