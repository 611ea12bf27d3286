"""Trajectory errors: known perturbations give known errors, and evo agrees where it is installed."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax.evaluate.trajectory import evaluate_trajectory
from ivggt_jax.trajectories.alignment import SimilarityFit, align_trajectory, inverse, relative_to_first, umeyama
from ivggt_jax.transforms import Similarity

ALIGNMENTS = ("sim3", "se3", "scale", "none")


def cameras(frames=30, seed=0):
    """A winding path [S, 3, 4], world-from-camera."""
    random = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(np.cumsum(random.normal(scale=0.1, size=(frames, 3)), axis=0)).as_matrix()
    position = np.cumsum(random.normal(size=(frames, 3)), axis=0)
    return np.concatenate((rotation, position[..., None]), axis=-1)


def similarity(scale=1.0, seed=1):
    random = np.random.default_rng(seed)
    return Similarity(scale, Rotation.random(rng=random).as_matrix(), random.normal(size=3))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_a_perfect_prediction_has_no_error(alignment):
    truth = cameras()
    for value in evaluate_trajectory(truth, truth, alignment).summary().values():
        assert value == pytest.approx(0, abs=1e-5)  # float64 angles near zero carry about 1e-6 degrees


@pytest.mark.parametrize(
    ("alignment", "moved"),
    [("sim3", similarity(3.0)), ("se3", similarity(1.0)), ("scale", Similarity(scale=3.0)), ("none", Similarity())],
)
def test_each_alignment_takes_out_what_it_names(alignment, moved):
    truth = relative_to_first(cameras())
    errors = evaluate_trajectory(moved.poses(truth), truth, alignment)
    assert max(errors.summary().values()) < 1e-5
    assert errors.truth_from_prediction.scale == pytest.approx(1 / moved.scale)
    np.testing.assert_allclose(errors.aligned, truth, atol=1e-9)


@pytest.mark.parametrize(
    ("alignment", "moved"),
    [("se3", Similarity(scale=3.0)), ("scale", similarity(1.0)), ("none", Similarity(scale=1.1))],
)
def test_no_alignment_takes_out_more(alignment, moved):
    truth = relative_to_first(cameras())
    assert evaluate_trajectory(moved.poses(truth), truth, alignment).summary()["ate"] > 0.1


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_a_turned_camera_is_its_angle(alignment):
    truth, prediction = cameras(), cameras()
    turn = Rotation.from_rotvec([0, np.radians(7), 0]).as_matrix()
    prediction[10, :, :3] = truth[10, :, :3] @ turn
    errors = evaluate_trajectory(prediction, truth, alignment)
    assert errors.rotation[10] == pytest.approx(7)
    assert errors.summary()["rotation_max_degrees"] == pytest.approx(7)
    assert errors.summary()["rotation_mean_degrees"] == pytest.approx(7 / 30, abs=1e-5)
    # Two of the 29 pairs contain the turned camera.
    assert errors.summary()["rpe_rotation_degrees"] == pytest.approx(np.sqrt(2 * 7**2 / 29), abs=1e-5)
    assert errors.summary()["ate"] == pytest.approx(0, abs=1e-9)


def test_a_moved_camera_is_its_distance():
    truth, prediction = cameras(), cameras()
    prediction[10, :, 3] += (0.3, 0, 0.4)
    errors = evaluate_trajectory(prediction, truth, "none")
    assert errors.translation[10] == pytest.approx(0.5)
    assert errors.summary()["ate"] == pytest.approx(np.sqrt(0.25 / 30))
    assert errors.summary()["translation_mean"] == pytest.approx(0.5 / 30)
    assert errors.summary()["translation_max"] == pytest.approx(0.5)
    assert errors.summary()["rpe_translation"] == pytest.approx(np.sqrt(2 * 0.25 / 29))


@pytest.mark.parametrize("alignment", ["sim3", "se3"])
def test_the_known_error_of_a_symmetric_perturbation(alignment):
    # A square whose corners are pushed up and down in turn: no rigid motion helps, and the best scale is 1/(1 + ε²).
    truth = np.tile(np.eye(3, 4), (4, 1, 1))
    truth[:, :, 3] = [(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)]
    prediction, epsilon = truth.copy(), 0.1
    prediction[:, 2, 3] = epsilon * np.array([1, -1, 1, -1])
    expected = epsilon / np.sqrt(1 + epsilon**2) if alignment == "sim3" else epsilon
    assert evaluate_trajectory(prediction, truth, alignment).summary()["ate"] == pytest.approx(expected, rel=1e-9)


def test_camera_from_world_is_the_inverse():
    truth = cameras()
    np.testing.assert_allclose(inverse(inverse(truth)), truth, atol=1e-12)
    assert evaluate_trajectory(inverse(truth), truth).summary()["ate"] > 0.1
    np.testing.assert_allclose(relative_to_first(truth)[0], np.eye(3, 4), atol=1e-12)


@pytest.mark.parametrize("unknown", [np.nan, -np.inf])
def test_frames_without_truth_are_left_out(unknown):
    """ScanNet writes poses that it lost as -inf; of another, one number is damaged."""
    truth, prediction = cameras(), similarity(2.0).poses(cameras())
    truth[4] = unknown
    truth[5, 0, 0] = unknown
    prediction[4, :, 3] += 100
    errors = evaluate_trajectory(prediction, truth)
    assert np.isnan(errors.translation).nonzero()[0].tolist() == [4, 5]
    assert np.isnan(errors.relative_rotation).nonzero()[0].tolist() == [3, 4, 5]
    assert max(errors.summary().values()) < 1e-5


def test_a_straight_corridor_takes_its_roll_from_the_cameras():
    truth = cameras()
    truth[:, :, 3] = np.arange(30)[:, None] * np.array([0, 0, 1.0])
    errors = evaluate_trajectory(similarity(2.0).poses(truth), truth)
    assert max(errors.summary().values()) < 1e-5


def test_a_prediction_that_never_moves_is_scored():
    truth = cameras()
    prediction = np.tile(truth[:1], (30, 1, 1))
    spread = truth[..., 3] - truth[..., 3].mean(axis=0)
    expected = np.sqrt(np.mean(np.sum(spread**2, axis=1)))
    errors = evaluate_trajectory(prediction, truth)
    assert errors.truth_from_prediction.scale == 1
    assert errors.summary()["ate"] == pytest.approx(expected)


def test_a_fit_in_parts_is_the_fit_of_the_whole():
    random = np.random.default_rng(2)
    source = random.normal(size=(1000, 3)) + 1000
    target = similarity(0.5).points(source) + random.normal(scale=0.1, size=source.shape)
    fit = SimilarityFit()
    for part in np.array_split(np.arange(1000), 7):
        fit.add(source[part], target[part])
    whole = umeyama(source, target, scale=True)
    np.testing.assert_allclose(fit.solve(scale=True).points(source), whole.points(source), atol=1e-9)
    assert whole.scale == pytest.approx(0.5, rel=0.02)


def test_points_on_one_line_are_turned_as_little_as_can_be():
    line = np.linspace(-1, 2, 10)[:, None]
    turn = Rotation.from_euler("z", 40, degrees=True).as_matrix()
    found = umeyama(line * (1, 0, 0), 2 * line * turn[:, 0] + 3, scale=True)
    np.testing.assert_allclose(found.points(line * (1, 0, 0)), 2 * line * turn[:, 0] + 3, atol=1e-9)
    np.testing.assert_allclose(found.rotation, turn, atol=1e-6)
    collapsed = umeyama(np.ones((10, 3)), line * turn[:, 0], scale=True)
    assert collapsed.scale == 1
    np.testing.assert_allclose(collapsed.rotation, np.eye(3), atol=1e-9)


def test_similarities_compose():
    points = np.random.default_rng(3).normal(size=(5, 3))
    a, b = similarity(2.0, seed=4), similarity(0.3, seed=5)
    np.testing.assert_allclose(b.after(a).points(points), b.points(a.points(points)), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t: evaluate_trajectory(p[:-1], t), "29 frames"),
        (lambda p, t: evaluate_trajectory(p[..., :3], t), "prediction has shape"),
        (lambda p, t: evaluate_trajectory(np.where(np.arange(30)[:, None, None] == 8, np.nan, p), t), "frame 8"),
        (lambda p, t: evaluate_trajectory(p, t, "sim4"), "sim4"),
        (lambda p, t: evaluate_trajectory(p, t, delta=30), "delta"),
        (lambda p, t: evaluate_trajectory(p[:1], t[:1], "none"), "at least two frames"),
        (lambda p, t: evaluate_trajectory(p, t * np.nan), "none of the 30"),
        (lambda p, t: align_trajectory(p[:2], t[:2], "se3"), "at least 3"),
        (lambda p, t: evaluate_trajectory(p, np.tile(t[:1], (30, 1, 1))), "camera positions all coincide"),
        (lambda p, t: SimilarityFit().add(np.zeros((3, 2)), np.zeros((3, 2))), r"\[N, 3\]"),
    ],
)
def test_errors_name_what_is_wrong(change, message):
    truth = cameras()
    with pytest.raises(ValueError, match=message):
        change(truth.copy(), truth)


@pytest.mark.parametrize("delta", [1, 5])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_evo_agrees(alignment, delta):
    pytest.importorskip("evo")
    from evo.core.metrics import APE, RPE, PoseRelation
    from evo.core.trajectory import PosePath3D

    random = np.random.default_rng(6)
    truth = cameras(200)
    noisy = truth.copy()
    noisy[..., 3] += random.normal(scale=0.2, size=(200, 3))
    noisy[..., :3] = noisy[..., :3] @ Rotation.from_rotvec(random.normal(scale=0.05, size=(200, 3))).as_matrix()
    prediction = similarity(0.4).poses(noisy)
    errors = evaluate_trajectory(prediction, truth, alignment, delta=delta)

    def path(world_from_cam):
        bottom = np.tile(np.array([[0, 0, 0, 1.0]]), (len(world_from_cam), 1, 1))
        return PosePath3D(poses_se3=list(np.concatenate((world_from_cam, bottom), axis=1)))

    reference, estimate = path(truth), path(prediction)
    if alignment != "none":
        estimate.align(reference, correct_scale=alignment == "sim3", correct_only_scale=alignment == "scale")
    for relation, ours, ours_relative in (
        (PoseRelation.translation_part, errors.translation, errors.relative_translation),
        (PoseRelation.rotation_angle_deg, errors.rotation, errors.relative_rotation),
    ):
        absolute, relative = APE(relation), RPE(relation, delta=delta, all_pairs=True)
        absolute.process_data((reference, estimate))
        relative.process_data((reference, estimate))
        np.testing.assert_allclose(ours, absolute.error, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ours_relative, relative.error, rtol=1e-6, atol=1e-6)
