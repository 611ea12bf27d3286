"""Resize, crop and pad any image to the model's input, pixel for pixel as for the published models."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from ivggt_jax.sources.frame import Fit, SourceError

PATCH = 14
LONGEST_ASPECT = 32
WHITE = (255, 255, 255)

Size = tuple[int, int]
"""Width and height in pixels."""


def fit_image(
    image: Image.Image, size: int = 518, mode: Literal["crop", "pad"] = "crop", like: Size | None = None
) -> tuple[np.ndarray, Fit]:
    """Fit one image to the model's input.

    `crop`: the width becomes `size`; the height follows, rounded to a multiple of 14 (halves to even), and is cropped to the
    middle `size` rows if it is larger. `pad`: the longer side becomes `size`, and white padding makes a square. Resampling is
    Pillow's bicubic on uint8, as in the reference.

    Args:
        image: upright RGB image of any size.
        size: pixels, a multiple of 14.
        mode: as above.
        like: width and height that the result must have (the first frame's). A smaller result is centred on white; a
            larger one is scaled down as a whole until it fits.

    Returns:
        uint8 [H,W,3], and the transform from the original.

    Raises:
        ValueError: `size` is not a positive multiple of 14, or the image is not RGB.
        SourceError: the image is so long and thin that nothing useful would be left.
    """
    if size <= 0 or size % PATCH:
        raise ValueError(f"size {size} must be a positive multiple of {PATCH}; the nearest is {nearest_size(size)}")
    if image.mode != "RGB":
        raise ValueError(f"image mode {image.mode!r} must be RGB; `to_rgb` converts it")
    fit, canvas = plan_fit(image.size, size, mode, like)
    resized = _resized(fit)
    return np.array(_place(image.resize(resized, Image.Resampling.BICUBIC), canvas, WHITE)), fit


def plan_fit(original: Size, size: int, mode: str, like: Size | None) -> tuple[Fit, Size]:
    """How `fit_image` fits an image of the original size, and the size of the result. Raises SourceError like `fit_image`."""
    resized, canvas = _plan(original, size, mode, like)
    fit = Fit(
        original_size=original,
        scale=(resized[0] / original[0], resized[1] / original[1]),
        offset=((canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2),
    )
    return fit, canvas


def fit_mask(masks: Sequence[Image.Image], fit: Fit, height: int, width: int) -> np.ndarray | None:
    """Fit masks like their image; padding is masked too.

    Args:
        masks: images of mode L, 0 where pixels are to be ignored, with the original's aspect ratio and any size; an empty
            list masks only the padding.
        fit: how the image was fitted.
        height: of the model's input.
        width: of the model's input.

    Returns:
        bool [height, width], False for pixels that a mask or the padding excludes (nearest neighbour); None if all count.

    Raises:
        SourceError: a mask's shape differs from the image's.
    """
    resized = _resized(fit)
    if not masks:
        if resized[0] >= width and resized[1] >= height:
            return None
        masks = [Image.new("L", fit.original_size, 255)]
    kept = np.ones((height, width), bool)
    for mask in masks:
        check_shape(mask.size, fit.original_size)
        kept &= np.array(_place(mask.resize(resized, Image.Resampling.NEAREST), (width, height), 0)) > 0
    return kept


def check_shape(own: Size, original: Size, what: str = "mask") -> None:
    """Raises SourceError when a mask, or whatever `what` names, does not have its image's shape."""
    # Allows half a pixel of rounding on either side of the smaller one.
    if abs(own[0] * original[1] - own[1] * original[0]) > (max(own) + max(original)) / 2:
        raise SourceError(
            f"the {what} has {own[0]}×{own[1]} pixels, its image {original[0]}×{original[1]}; "
            f"a {what} may be smaller or larger than its image, but must have its shape"
        )


def pad_to_largest(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images of mixed sizes for `infer_clip`, each centred on white of the largest height and width.

    Args:
        images: S arrays, uint8 [H,W,3], each with its own H and W.

    Returns:
        uint8 [S, largest H, largest W, 3]; an odd remainder goes to the bottom or right.
    """
    canvas = (max(image.shape[1] for image in images), max(image.shape[0] for image in images))
    return np.stack([np.array(_place(Image.fromarray(image), canvas, WHITE)) for image in images])


def model_size(original: Size, size: int, mode: str) -> Size:
    """Width and height of the result of `fit_image` for an image of the original size. Raises SourceError like `fit_image`."""
    return _plan(original, size, mode, None)[1]


def nearest_size(size: int) -> int:
    """The multiple of 14 nearest to `size`, for error messages."""
    return max(PATCH, round(size / PATCH) * PATCH)


def usual_size(width: int) -> Size:
    """Default width and height of frames for a model of this width: 4:3, in whole patches."""
    return width, max(PATCH, round(0.75 * width / PATCH) * PATCH)


def parse_size(text: str) -> Size:
    """Width and height of "518x392". Raises ValueError for anything else."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError(f"--size must be like 518x392 (width x height), not {text}")
    return int(width), int(height)


def _plan(original: Size, size: int, mode: str, like: Size | None) -> tuple[Size, Size]:
    """The size that the image is resized to, and the canvas it is then centred on; a smaller canvas crops it."""
    width, height = original
    if max(original) > LONGEST_ASPECT * min(original):
        raise SourceError(f"{width}×{height} pixels is longer than {LONGEST_ASPECT}:1; crop it first")
    if mode == "crop" or width >= height:
        resized = (size, round(height * (size / width) / PATCH) * PATCH)
    else:
        resized = (round(width * (size / height) / PATCH) * PATCH, size)
    canvas = (size, min(resized[1], size)) if mode == "crop" else (size, size)
    if like is not None and canvas != like:
        if canvas[0] > like[0] or canvas[1] > like[1]:
            ratio = min(like[0] / width, like[1] / height)
            resized = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        canvas = like
    if min(resized) == 0:
        raise SourceError(
            f"{width}×{height} pixels is less than one patch of {PATCH} high or wide at size {size}; use a larger size"
        )
    return resized, canvas


def _resized(fit: Fit) -> Size:
    """Width and height that the original was resized to, before cropping or padding."""
    return round(fit.scale[0] * fit.original_size[0]), round(fit.scale[1] * fit.original_size[1])


def _place(image: Image.Image, canvas: Size, fill: int | tuple[int, int, int]) -> Image.Image:
    """Centre an image on a canvas; what extends beyond it is cropped, the rest is filled."""
    if image.size == canvas:
        return image
    placed = Image.new(image.mode, canvas, fill)
    placed.paste(image, ((canvas[0] - image.width) // 2, (canvas[1] - image.height) // 2))
    return placed
