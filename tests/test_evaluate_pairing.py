"""Predictions and truth meet on the same pixels, whatever the image went through."""

import numpy as np
import pytest

from ivggt_jax.evaluate.pairing import centre_crop, depth_pair, true_points
from ivggt_jax.sources.frame import Fit

FITS = {
    # original 40 × 30 to a model input of 56 × 42 (width × height) and others
    "resized": (Fit((40, 30), (1.4, 1.4), (0, 0)), (42, 56)),
    "cropped": (Fit((40, 30), (1.4, 1.4), (0, -7)), (28, 56)),
    "padded": (Fit((40, 30), (1.4, 1.4), (0, 7)), (56, 56)),
    "stretched": (Fit((40, 30), (0.7, 1.4), (0, 0)), (42, 28)),
}


def plane(x, y):
    """A depth that is linear in the continuous, corner-based coordinates of the original."""
    return 2 + 0.01 * x + 0.02 * y


def model_depth(fit, shape):
    """The same plane at the model's pixels."""
    x = (np.arange(shape[1]) + 0.5 - fit.offset[0]) / fit.scale[0]
    y = (np.arange(shape[0]) + 0.5 - fit.offset[1]) / fit.scale[1]
    return plane(x[None], y[:, None])


def original_depth(fit):
    width, height = fit.original_size
    return plane(np.arange(width)[None] + 0.5, np.arange(height)[:, None] + 0.5)


@pytest.mark.parametrize("name", FITS)
def test_depth_meets_at_the_original_s_pixels(name):
    fit, shape = FITS[name]
    prediction, truth = depth_pair(model_depth(fit, shape), original_depth(fit), fit)
    assert prediction.shape == truth.shape
    assert truth.shape == ((20, 40) if name == "cropped" else (30, 40))
    # Pillow's filter is off by 4e-4 on a slope, and more at the border; half a pixel aside would be off by 1e-2.
    np.testing.assert_allclose(prediction[3:-3, 3:-3], truth[3:-3, 3:-3], atol=1e-3)


@pytest.mark.parametrize("name", FITS)
def test_points_meet_at_the_model_s_pixels(name):
    """The truth of a model pixel is the original pixel below it: its depth times its ray."""
    fit, (height, width) = FITS[name]
    depth = original_depth(fit)
    depth[10, 20] = 0
    intrinsics = np.array([[50.0, 0, 19.5], [0, 60, 14.5], [0, 0, 1]])
    turn = np.array([[0.0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7]])
    points, known = true_points(depth, intrinsics, turn, fit, height, width)
    for row, column in ((0, 0), (height // 2, width // 3), (height - 1, width - 1)):
        x = int((column + 0.5 - fit.offset[0]) // fit.scale[0])
        y = int((row + 0.5 - fit.offset[1]) // fit.scale[1])
        assert known[row, column] == (0 <= y < 30)
        if known[row, column]:
            expected = depth[y, x] * np.array([(x - 19.5) / 50, (y - 14.5) / 60, 1])
            np.testing.assert_allclose(points[row, column], (5 - expected[1], 6 + expected[0], 7 + expected[2]))
    # All of the model's pixels but padding, and those (2 × 2 at most) that fall on the one without depth.
    covered = 42 * width if name == "padded" else height * width
    assert covered - 4 <= known.sum() < covered


def test_the_middle_is_cut_out():
    array = np.arange(6 * 9).reshape(6, 9)
    np.testing.assert_array_equal(centre_crop(array, 4), array[1:5, 2:6])
    with pytest.raises(ValueError, match="6 × 9"):
        centre_crop(array, 7)


def test_the_truth_must_have_the_original_s_size():
    fit, shape = FITS["resized"]
    with pytest.raises(ValueError, match="30 × 40"):
        depth_pair(np.ones(shape), np.ones((40, 30)), fit)
    with pytest.raises(ValueError, match="30 × 40"):
        true_points(np.ones((40, 30)), np.eye(3), np.eye(3, 4), fit, *shape)
