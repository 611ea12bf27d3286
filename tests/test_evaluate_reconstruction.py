"""Reconstruction errors: perfect is zero, known perturbations give known errors, oracles agree where installed."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax.evaluate.long3d import CAM_FROM_LIDAR, evaluate_long3d
from ivggt_jax.evaluate.reconstruction import align_medians, compare_clouds, evaluate_reconstruction
from ivggt_jax.transforms import Similarity

ALIGNMENTS = ("published", "published_projected", "fixed")


def room(frames=4, count=1500, seed=0):
    """Points on the inside of a box room with a bump, in metres, seen from its middle: [frames, count, 3]."""
    random = np.random.default_rng(seed)
    points = random.uniform(-1, 1, (frames, count, 3))
    side = random.integers(0, 3, (frames, count))
    # Walls stand at round coordinates, where a grid of cubes has its borders.
    points[np.arange(frames)[:, None], np.arange(count), side] = random.choice((-1.0, 1.0), (frames, count))
    points *= (2.0, 1.0, 3.0)
    points[..., 1] += 0.2 * np.exp(-(points[..., 0] ** 2 + points[..., 2] ** 2))
    return points + (0, 0, 3.5)


def lattice(spacing=0.1, side=20):
    """A flat square of points [side², 3] with z = 2."""
    x, y = np.meshgrid(np.arange(side) * spacing, np.arange(side) * spacing)
    return np.stack((x.ravel(), y.ravel(), np.full(side * side, 2.0)), axis=1)


MOVES = {
    # What each alignment takes out: medians find depth and scale, and the others any similarity.
    "published": Similarity(0.4, translation=np.array([0, 0, 0.7])),
    "published_projected": Similarity(0.4, Rotation.from_euler("xyz", [1, 2, 3]).as_matrix(), np.array([5.0, 6, 7])),
    "fixed": Similarity(0.4, Rotation.from_euler("xyz", [1, 2, 3]).as_matrix(), np.array([5.0, 6, 7])),
}


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_a_perfect_prediction_up_to_its_alignment_has_no_error(alignment, moved):
    truth = room()
    if moved and alignment == "published":
        truth -= (*np.median(truth, axis=(0, 1))[:2], 0)  # x and y are not shifted by it
    prediction = MOVES[alignment].points(truth) if moved else truth
    result = evaluate_reconstruction(list(zip(prediction, truth, strict=True)), alignment, thresholds=(0.01, 0.05))
    summary = result.errors.summary()
    for name in ("accuracy", "accuracy_median", "completeness", "completeness_median", "chamfer"):
        assert summary[name] == pytest.approx(0, abs=1e-6), name
    for name in set(summary) - {"accuracy", "accuracy_median", "completeness", "completeness_median", "chamfer"}:
        assert summary[name] == pytest.approx(1, abs=1e-6), name
    assert result.frames == pytest.approx([0] * 4, abs=1e-6)
    assert result.truth_from_prediction.scale == pytest.approx(2.5 if moved else 1)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_a_known_perturbation_is_its_known_error(alignment):
    """Points pushed 3 cm up and down in a chequered order: no alignment helps by more than a thousandth."""
    truth = lattice()
    sign = np.where((np.arange(400) % 20 + np.arange(400) // 20) % 2, 1, -1)
    prediction = truth + 0.03 * sign[:, None] * (0, 0, 1)
    result = evaluate_reconstruction([(prediction, truth)], alignment, thresholds=(0.02, 0.05))
    errors = result.errors
    for value in (errors.accuracy, errors.completeness, errors.chamfer, errors.accuracy_median, result.frames[0]):
        assert value == pytest.approx(0.03, rel=5e-3)
    assert errors.precision == errors.recall == errors.f_score == {0.02: 0, 0.05: 1}


def test_accuracy_and_completeness_look_from_different_sides():
    truth, height = lattice(), 0.04
    prediction = np.concatenate((truth[:200] + (0, 0, height), truth[:200]))
    errors = compare_clouds(prediction, truth, thresholds=(0.05, 0.25))
    assert errors.accuracy == pytest.approx(height / 2)
    # The 10 missing rows are 1 to 10 spacings away from the last one that is there.
    assert errors.completeness == pytest.approx(0.5 * 0.1 * np.mean(np.arange(1, 11)))
    assert errors.completeness_median == pytest.approx((0 + 0.1) / 2)
    assert errors.chamfer == pytest.approx((errors.accuracy + errors.completeness) / 2)
    assert errors.precision[0.05] == 1
    assert errors.recall == pytest.approx({0.05: 0.5, 0.25: 0.6})
    assert errors.f_score[0.05] == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_normal_consistency_is_the_cosine_between_surfaces():
    truth = lattice(0.01, 40) - (0.2, 0.2, 2)
    for angle in (0, 30, 60):
        prediction = truth @ Rotation.from_euler("x", angle, degrees=True).as_matrix().T
        errors = compare_clouds(prediction, truth)
        for value in (
            errors.normal_consistency,
            errors.normal_consistency_accuracy,
            errors.normal_consistency_completeness,
            errors.normal_consistency_median,
        ):
            assert value == pytest.approx(np.cos(np.radians(angle)), abs=1e-6)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_a_prediction_that_is_one_point_is_scored(alignment):
    truth = lattice()
    errors = evaluate_reconstruction([(np.ones_like(truth), truth)], alignment).errors
    assert np.isfinite(list(errors.summary().values())).all()
    assert errors.completeness > 0.5


def test_icp_repairs_a_small_turn_that_medians_leave():
    truth = room()
    prediction = truth @ Rotation.from_euler("y", 0.5, degrees=True).as_matrix().T
    published = evaluate_reconstruction(list(zip(prediction, truth, strict=True)), "published").errors
    start = align_medians(prediction.reshape(-1, 3), truth.reshape(-1, 3))
    before = compare_clouds(start.points(prediction.reshape(-1, 3)), truth.reshape(-1, 3))
    assert published.accuracy < 0.5 * before.accuracy


def test_medians_are_of_whole_frames_and_the_comparison_of_their_crops():
    """A frame whose other half is twice as far away as predicted: its crop alone would have another scale."""
    truth = room(frames=2)
    prediction = truth.copy()
    prediction[:, 500:] *= 0.5
    whole = list(zip(prediction, truth, strict=True))
    cropped = [(found[:500], true[:500]) for found, true in whole]
    result = evaluate_reconstruction(cropped, "published", whole=whole)
    medians = align_medians(prediction.reshape(-1, 3), truth.reshape(-1, 3))
    assert result.truth_from_prediction.scale == pytest.approx(medians.scale)
    assert result.true_points == result.predicted_points == 1000
    assert evaluate_reconstruction(cropped, "published").truth_from_prediction.scale == pytest.approx(1)
    assert evaluate_reconstruction(cropped, "published_projected", whole=whole).errors.chamfer < 1e-6


def test_the_fixed_alignment_does_not_need_the_frames_at_once():
    """Frames that exist only while they are looked at, one of them empty."""
    truth = room()
    held = []

    class Frames:
        def __iter__(self):
            for points in (*truth, np.zeros((0, 3))):
                held.append(1)
                yield points.copy(), points
                held.pop()

    result = evaluate_reconstruction(Frames(), "fixed")
    assert not held
    assert result.errors.chamfer < 1e-6
    assert np.isnan(result.frames[-1])
    assert result.true_points <= truth[..., 0].size


def test_sklearn_agrees_on_distances():
    neighbours = pytest.importorskip("sklearn.neighbors")
    prediction, truth = room(seed=1).reshape(-1, 3), room(seed=2).reshape(-1, 3)
    errors = compare_clouds(prediction, truth)
    to_truth, _ = neighbours.NearestNeighbors(n_neighbors=1).fit(truth).kneighbors(prediction)
    to_prediction, _ = neighbours.NearestNeighbors(n_neighbors=1).fit(prediction).kneighbors(truth)
    assert errors.accuracy == pytest.approx(to_truth.mean(), abs=1e-6)
    assert errors.completeness == pytest.approx(to_prediction.mean(), abs=1e-6)
    assert errors.completeness_median == pytest.approx(np.median(to_prediction), abs=1e-6)


def test_open3d_agrees_on_the_published_protocol():
    open3d = pytest.importorskip("open3d", exc_type=ImportError)
    random = np.random.default_rng(3)
    truth = room(seed=4)
    prediction = 0.5 * (truth + random.normal(scale=0.02, size=truth.shape))
    errors = evaluate_reconstruction(list(zip(prediction, truth, strict=True)), "published").errors
    flat = truth.reshape(-1, 3)
    moved = align_medians(prediction.reshape(-1, 3), flat).points(prediction.reshape(-1, 3))
    clouds = [open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points)) for points in (moved, flat)]
    clouds[0].transform(open3d.pipelines.registration.registration_icp(*clouds, 0.1, np.eye(4)).transformation)
    for cloud in clouds:
        cloud.estimate_normals()
    assert errors.accuracy == pytest.approx(np.mean(clouds[0].compute_point_cloud_distance(clouds[1])), abs=1e-6)
    assert errors.completeness == pytest.approx(np.mean(clouds[1].compute_point_cloud_distance(clouds[0])), abs=1e-6)
    search = open3d.geometry.KDTreeFlann(clouds[1])
    nearest = [search.search_knn_vector_3d(point, 1)[1][0] for point in clouds[0].points]
    cosines = np.einsum("ni,ni->n", np.asarray(clouds[0].normals), np.asarray(clouds[1].normals)[nearest])
    assert errors.normal_consistency_accuracy == pytest.approx(np.abs(cosines).mean(), abs=1e-6)


def scan(seed=5):
    """A small room scanned from one place: 12,000 points in the laser's frame, metres."""
    return 0.1 * room(frames=1, count=12_000, seed=seed)[0]


def as_seen_by_the_camera(points):
    return points @ CAM_FROM_LIDAR[:, :3].T + CAM_FROM_LIDAR[:, 3]


def test_a_perfect_long3d_prediction_has_no_error():
    """The scale factor is 1; ICP has nothing to do; only the calibration's rounding to six digits is left."""
    result = evaluate_long3d(as_seen_by_the_camera(scan()), scan(), scale_factor=1.0)
    assert result.errors.chamfer < 1e-3
    assert result.errors.f_score[0.05] == 1
    assert result.truth_from_prediction.scale == pytest.approx(1, abs=1e-3)


def test_long3d_takes_out_scale_and_keeps_its_factor():
    """To 10 %: the clouds are thinned before they are scaled, to another density if their scales differ."""
    perfect = evaluate_long3d(3 * as_seen_by_the_camera(scan()), scan(), scale_factor=1.0)
    assert perfect.truth_from_prediction.scale == pytest.approx(1 / 3, rel=0.1)
    shrunk = evaluate_long3d(as_seen_by_the_camera(scan()), scan(), scale_factor=0.75)
    assert shrunk.truth_from_prediction.scale == pytest.approx(0.75, rel=0.02)
    assert shrunk.errors.chamfer > perfect.errors.chamfer


def test_long3d_thins_the_larger_cloud():
    result = evaluate_long3d(as_seen_by_the_camera(scan()[::4]), scan(), scale_factor=1.0)
    assert result.predicted_points == result.true_points <= 3000


def test_the_calibration_turns_the_laser_s_axes_into_the_camera_s():
    forward, up = CAM_FROM_LIDAR[:, 0], CAM_FROM_LIDAR[:, 2]
    assert forward[2] > 0.9
    assert up[1] < -0.9


@pytest.mark.parametrize(
    ("frames", "alignment", "message"),
    [
        ([(np.zeros((3, 3)), np.zeros((4, 3)))], "fixed", "frame 0"),
        ([(np.full((4, 3), np.nan), np.zeros((4, 3)))], "published", "predicted point is not finite"),
        ([(np.zeros((4, 3)), np.full((4, 3), np.inf))], "fixed", "true point is not finite"),
        ([], "published", "at least 3"),
        ([], "fixed", "at least 3"),
        ([], "icp", "icp"),
    ],
)
def test_errors_name_what_is_wrong(frames, alignment, message):
    with pytest.raises(ValueError, match=message):
        evaluate_reconstruction(frames, alignment)
