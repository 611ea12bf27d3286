"""Depth errors: perfect is zero, known perturbations give known errors, and fits agree with independent solvers."""

import numpy as np
import pytest
from scipy.optimize import linprog

from ivggt_jax.evaluate.depth import PROTOCOLS, DepthProtocol, error_map, evaluate_depth
from ivggt_jax.evaluate.depth_alignment import align_depth

ALIGNMENTS = ("metric", "scale", "median", "scale&shift")
ERRORS = ("abs_rel", "sq_rel", "rmse", "log_rmse")


def depths(frames=4, height=12, width=16, seed=0):
    """True depth maps in metres; a quarter of the pixels has none."""
    random = np.random.default_rng(seed)
    truth = random.uniform(1, 10, (frames, height, width)).astype(np.float32)
    truth[random.random(truth.shape) < 0.25] = 0
    return truth


class Reading:
    """Pairs that count how often they are read, and are made anew each time."""

    def __init__(self, prediction, truth):
        self.prediction, self.truth, self.passes = prediction, truth, 0

    def __iter__(self):
        self.passes += 1
        return iter(list(zip(self.prediction, self.truth, strict=True)))


def errors_of(prediction, truth, alignment, protocol=PROTOCOLS["kitti"]):
    return evaluate_depth(list(zip(prediction, truth, strict=True)), alignment, protocol).errors


@pytest.mark.parametrize(
    ("alignment", "scale", "shift"),
    [("metric", 1, 0), ("scale", 1, 0), ("scale", 0.3, 0), ("median", 4, 0), ("scale&shift", 0.5, 0), ("scale&shift", 2, -1)],
)  # fmt: skip
def test_a_perfect_prediction_up_to_its_alignment_has_no_error(alignment, scale, shift):
    truth = depths()
    prediction = (truth.astype(np.float64) - shift) / scale
    result = evaluate_depth(list(zip(prediction, truth, strict=True)), alignment)
    # The median is found in float32: seven digits.
    assert result.scale == pytest.approx(scale, rel=1e-6)
    assert result.shift == pytest.approx(shift, abs=1e-6)
    for name in ERRORS:
        assert getattr(result.errors, name) == pytest.approx(0, abs=1e-6)
    assert result.errors.delta_1 == result.errors.delta_2 == result.errors.delta_3 == 1
    assert result.errors.pixels == np.count_nonzero(truth)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_a_known_perturbation_is_its_known_error(alignment):
    """Every tenth pixel is 30 % too far: no robust alignment follows it, and each error is a tenth of the pixel's."""
    truth = np.tile(np.linspace(2, 8, 30, dtype=np.float64), (2, 10, 1))
    wrong = np.zeros(truth.shape, bool)
    wrong[:, ::10] = True
    prediction = np.where(wrong, 1.3 * truth, truth)
    # The median of the prediction itself moves, so that alignment's known case is one of unit scale by construction.
    if alignment == "median":
        prediction = np.where(wrong & (truth > 6), 1.3 * truth, truth)
        wrong &= truth > 6
    errors = errors_of(prediction, truth, alignment)
    share = wrong.mean()
    assert errors.abs_rel == pytest.approx(0.3 * share, rel=1e-4)
    assert errors.sq_rel == pytest.approx(0.09 * truth[wrong].mean() * share, rel=1e-4)
    assert errors.rmse == pytest.approx(np.sqrt(0.09 * (truth[wrong] ** 2).mean() * share), rel=1e-4)
    assert errors.log_rmse == pytest.approx(np.log(1.3) * np.sqrt(share), rel=1e-4)
    assert errors.delta_1 == pytest.approx(1 - share)
    assert errors.delta_2 == errors.delta_3 == 1


def test_deltas_are_strict_and_symmetric():
    truth = np.full((1, 1, 8), 4.0)
    factors = np.array([1.24, 1 / 1.24, 1.25, 1 / 1.26, 1.5, 1 / 1.6, 1.9, 2.0])
    errors = errors_of(truth * factors, truth, "metric")
    assert (errors.delta_1, errors.delta_2, errors.delta_3) == (2 / 8, 5 / 8, 7 / 8)


def test_negative_predictions_count_as_tiny_in_the_logarithm():
    truth = np.ones((1, 2, 2))
    errors = errors_of(-truth, truth, "metric")
    assert errors.log_rmse == pytest.approx(np.log(1e5))
    assert errors.rmse == 2
    assert errors.delta_3 == 0


def test_protocols_choose_pixels_and_clip():
    truth = np.array([[[10.0, 69, 80, 0, np.inf, np.nan]]])
    prediction = np.array([[[10.0, 100, 1, 5, 5, 5]]])
    assert errors_of(prediction, truth, "metric", PROTOCOLS["sintel"]).rmse == pytest.approx(1 / np.sqrt(2))
    assert errors_of(prediction, truth, "metric", PROTOCOLS["bonn"]).rmse == pytest.approx(31 / np.sqrt(2))
    assert errors_of(prediction, truth, "metric", PROTOCOLS["kitti"]).pixels == 3


def test_frames_are_scored_one_by_one():
    truth = depths()
    prediction = truth.copy()
    prediction[2] *= 1.1
    truth[3] = 0
    result = evaluate_depth(list(zip(prediction, truth, strict=True)), "metric")
    assert [frame.abs_rel for frame in result.frames[:3]] == pytest.approx([0, 0, 0.1], abs=1e-6)
    assert result.frames[3].pixels == 0
    assert np.isnan(result.frames[3].rmse)


@pytest.mark.parametrize("case", ["laplace", "outliers", "unrelated"])
def test_scale_and_shift_have_the_least_absolute_error(case, monkeypatch):
    """Against linear programming. With 100 of 900 pixels as the sample, the passes over all have work to do."""
    monkeypatch.setattr("ivggt_jax.evaluate.depth_alignment._SAMPLE", 100)
    random = np.random.default_rng(1)
    truth = random.uniform(1, 10, (3, 300))
    prediction = (truth - 0.7) / 2.5 + random.laplace(scale=0.1, size=truth.shape)
    if case == "outliers":
        prediction[:, ::4] = random.uniform(0, 4, prediction[:, ::4].shape)
    if case == "unrelated":
        prediction = random.uniform(0, 5, truth.shape)
    scale, shift = align_depth(lambda: zip(prediction, truth, strict=True), "scale&shift")
    ones = np.ones(truth.size)
    bounds = np.concatenate((np.stack((prediction.ravel(), ones), 1), -np.eye(truth.size)), axis=1)
    mirrored = np.concatenate((-bounds[:, :2], -np.eye(truth.size)), axis=1)
    best = linprog(
        np.concatenate((np.zeros(2), ones)),
        A_ub=np.concatenate((bounds, mirrored)),
        b_ub=np.concatenate((truth.ravel(), -truth.ravel())),
        bounds=[(None, None)] * 2 + [(0, None)] * truth.size,
    )
    reached = np.abs(scale * prediction + shift - truth).sum()
    assert best.fun <= reached * (1 + 1e-9)
    assert reached == pytest.approx(best.fun, rel=1e-5)  # the last step is 1e-6 of the mean depth


def test_scale_is_close_to_the_weighted_median():
    """The scale with the least absolute error is a weighted median of ratios, which ten published steps approach."""
    random = np.random.default_rng(2)
    truth = random.uniform(1, 10, (3, 300))
    prediction = truth / 2.5 * np.exp(random.laplace(scale=0.05, size=truth.shape))
    scale, _ = align_depth(lambda: zip(prediction, truth, strict=True), "scale")
    ratios, order = (truth / prediction).ravel(), np.argsort((truth / prediction).ravel())
    weights = np.cumsum(prediction.ravel()[order])
    exact = ratios[order][np.searchsorted(weights, weights[-1] / 2)]
    assert scale == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("offset", [0.0, -3.0])
def test_the_median_is_numpy_s(offset):
    """An odd number of pixels, some predictions negative; float32's seven digits."""
    random = np.random.default_rng(3)
    truth = random.uniform(1, 10, (3, 333)).astype(np.float32)
    prediction = random.lognormal(1.5, 0.5, truth.shape) + offset
    scale, _ = align_depth(lambda: zip(prediction, truth, strict=True), "median")
    assert scale == pytest.approx(np.median(truth) / np.median(prediction), rel=1e-6)


@pytest.mark.parametrize(("alignment", "passes"), [("metric", 1), ("median", 3), ("scale", 12), ("scale&shift", 25)])
def test_the_sequence_is_read_in_passes(alignment, passes):
    """Bounded in passes, so that pairs that read files need the memory of one frame."""
    truth = depths(seed=4)
    pairs = Reading(
        np.where(truth > 0, 0.4 * truth, 1) * np.random.default_rng(5).lognormal(0, 0.1, truth.shape), truth
    )
    evaluate_depth(pairs, alignment)
    assert pairs.passes == passes if alignment != "scale&shift" else pairs.passes <= passes


def test_the_error_map_shows_where():
    truth = np.array([[2.0, 0.0], [4.0, 100.0]])
    shown = error_map(np.array([[2.0, 1.0], [5.0, 70.0]]), truth, DepthProtocol(max_depth=70))
    np.testing.assert_array_equal(shown, [[0, np.nan], [0.25, np.nan]])


@pytest.mark.parametrize(
    ("prediction", "truth", "alignment", "message"),
    [
        (np.ones((1, 2, 3)), np.ones((1, 3, 2)), "metric", "frame 0"),
        (np.full((1, 2, 2), np.nan), np.ones((1, 2, 2)), "scale", "not finite"),
        (np.ones((1, 2, 2)), np.zeros((1, 2, 2)), "scale", "no pixel"),
        (np.zeros((1, 2, 2)), np.ones((1, 2, 2)), "scale", "no scale"),
        (np.zeros((1, 2, 2)), np.ones((1, 2, 2)), "median", "no scale"),
        (np.ones((1, 2, 2)), np.ones((1, 2, 2)), "affine", "affine"),
    ],
)
def test_errors_name_what_is_wrong(prediction, truth, alignment, message):
    with pytest.raises(ValueError, match=message):
        errors_of(prediction, truth, alignment)


def test_a_constant_prediction_is_shifted_only():
    truth = np.array([[[1.0, 2, 6]]])
    result = evaluate_depth([(np.full((1, 3), 5.0), truth[0])], "scale&shift")
    assert 5 * result.scale + result.shift == pytest.approx(2, abs=1e-4)
