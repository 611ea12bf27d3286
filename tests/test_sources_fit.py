"""Preprocessing against recorded numbers of the reference, and by its own rules."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ivggt_jax.sources import SourceError, fit_image, pad_to_largest, read_image
from ivggt_jax.sources.fit import fit_mask, model_size

GOLDEN = Path(__file__).parent / "golden" / "preprocess"
EXPECTED = np.load(GOLDEN / "expected.npz")


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def assert_equals_golden(image, key):
    channels_first = np.moveaxis(image.astype(np.float32) / np.float32(255), -1, -3)
    assert list(channels_first.shape) == EXPECTED[f"{key}_shape"].tolist()
    np.testing.assert_array_equal(channels_first[..., ::7, ::7], EXPECTED[key])


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("name", ["landscape", "portrait", "rgba", "gray"])
def test_equals_the_reference(name, mode):
    image, _ = fit_image(read_image(GOLDEN / f"{name}.png"), 518, mode)
    assert_equals_golden(image, f"{name}_{mode}")
    means = (image / 255.0).mean(axis=(0, 1))
    np.testing.assert_allclose(means, EXPECTED[f"{name}_{mode}_mean"], rtol=0, atol=1e-6)


def test_mixed_sizes_are_padded_like_the_reference():
    images = [fit_image(read_image(GOLDEN / f"{name}.png"), 518)[0] for name in ("landscape", "portrait")]
    assert_equals_golden(pad_to_largest(images), "mixed_crop")


def test_pad_to_largest_puts_the_odd_remainder_at_the_end():
    stacked = pad_to_largest([np.zeros((2, 2, 3), np.uint8), np.zeros((5, 3, 3), np.uint8)])
    assert stacked.shape == (2, 5, 3, 3)
    assert (stacked[0, 1:3, 0:2] == 0).all()
    assert stacked[0].sum() == 255 * 3 * (15 - 4)


@pytest.mark.parametrize(
    ("original", "mode", "size", "expected"),
    [
        ((160, 120), "crop", 518, (518, 392)),  # 388.5 / 14 = 27.75
        ((148, 27), "crop", 518, (518, 98)),  # 94.5 / 14 = 6.75
        ((37, 10), "crop", 518, (518, 140)),  # 140 exactly
        ((74, 19), "crop", 518, (518, 140)),  # 133 / 14 = 9.5, to even: 10
        ((74, 17), "crop", 518, (518, 112)),  # 119 / 14 = 8.5, to even: 8
        ((90, 160), "crop", 70, (70, 70)),
        ((90, 160), "pad", 70, (70, 70)),
    ],
)
def test_model_size(original, mode, size, expected):
    assert model_size(original, size, mode) == expected
    assert fit_image(noise(*original), size, mode)[0].shape == (expected[1], expected[0], 3)


def test_an_image_that_fits_already_is_untouched():
    image = noise(70, 56)
    fitted, fit = fit_image(image, 70)
    np.testing.assert_array_equal(fitted, np.asarray(image))
    assert (fit.scale, fit.offset) == ((1, 1), (0, 0))
    assert fitted.flags.writeable


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("size", [(140, 70), (70, 140), (140, 140)])
def test_fit_says_where_pixels_went(size, mode):
    """A white dot's centre of gravity lands where the fit says, to a hundredth of a pixel."""
    original = np.zeros((size[1], size[0], 3), np.uint8)
    row, column = size[1] // 2 - 5, size[0] // 2 + 9
    original[row - 2 : row + 3, column - 2 : column + 3] = 255
    image, fit = fit_image(Image.fromarray(original), 280, mode)
    inside = fit_mask([], fit, *image.shape[:2])
    weight = image[..., 0].astype(float) * (1 if inside is None else inside)
    rows, columns = np.indices(weight.shape) + 0.5
    expected_x = fit.scale[0] * (column + 0.5) + fit.offset[0]
    expected_y = fit.scale[1] * (row + 0.5) + fit.offset[1]
    assert (weight * columns).sum() / weight.sum() == pytest.approx(expected_x, abs=0.01)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(expected_y, abs=0.01)


def test_smaller_than_the_first_is_centred_on_white():
    alone, _ = fit_image(noise(140, 70), 140)
    image, fit = fit_image(noise(140, 70), 140, like=(140, 112))
    assert image.shape == (112, 140, 3)
    np.testing.assert_array_equal(image[21:91], alone)
    assert (image[:21] == 255).all() and (image[91:] == 255).all()
    assert fit.offset == (0, 21)


def test_larger_than_the_first_is_scaled_down_whole():
    image, fit = fit_image(noise(50, 100), 140, like=(140, 70))
    assert image.shape == (70, 140, 3)
    assert fit.scale == (0.7, 0.7) and fit.offset == (52, 0)
    assert (image[:, :52] == 255).all() and (image[:, 87:] == 255).all()
    expected = noise(50, 100).resize((35, 70), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(image[:, 52:87], np.asarray(expected))


@pytest.mark.parametrize("size", [0, -14, 500])
def test_refuses_a_size_that_is_no_multiple_of_14(size):
    with pytest.raises(ValueError, match="multiple of 14"):
        fit_image(noise(20, 20), size)


def test_refuses_other_modes_than_rgb():
    with pytest.raises(ValueError, match="'L' must be RGB"):
        fit_image(Image.new("L", (20, 20)), 28)


@pytest.mark.parametrize("original", [(1, 1000), (1000, 1)])
def test_refuses_threads(original):
    with pytest.raises(SourceError, match="longer than 32:1"):
        fit_image(Image.new("RGB", original), 518)


def test_refuses_what_becomes_less_than_a_patch():
    with pytest.raises(SourceError, match="less than one patch"):
        fit_image(Image.new("RGB", (300, 10)), 70)


def test_mask_follows_its_image():
    picture = np.zeros((40, 20, 3), np.uint8)
    picture[:20] = 255
    mask = Image.fromarray(picture[..., 0])
    for mode in ("crop", "pad"):
        image, fit = fit_image(Image.fromarray(picture), 140, mode)
        kept = fit_mask([mask], fit, 140, 140)
        inside = fit_mask([], fit, 140, 140)
        white = image[..., 0] > 127
        np.testing.assert_array_equal(kept, white if inside is None else white & inside)


def test_padding_is_masked_and_nothing_else():
    image, fit = fit_image(Image.new("RGB", (20, 40)), 140, "pad")
    np.testing.assert_array_equal(fit_mask([], fit, 140, 140), image[..., 0] == 0)
    _, fit = fit_image(Image.new("RGB", (20, 40)), 140, "crop")
    assert fit_mask([], fit, 140, 140) is None


def test_mask_of_another_shape_is_refused():
    _, fit = fit_image(Image.new("RGB", (20, 40)), 140)
    with pytest.raises(SourceError, match="mask has 40×20 pixels, its image 20×40"):
        fit_mask([Image.new("L", (40, 20))], fit, 140, 140)
