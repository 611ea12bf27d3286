"""Normals, clean-up and registration of clouds: known shapes have known answers, and Open3D agrees."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax.evaluate.clouds import estimate_normals, remove_outliers, tree, voxel_downsample
from ivggt_jax.evaluate.icp import register
from ivggt_jax.transforms import Similarity


def surface(count=2000, seed=0):
    """A bumpy sheet with a fold, about 2 × 2 in size: nothing in it looks the same from two sides."""
    random = np.random.default_rng(seed)
    x, y = random.uniform(-1, 1, (2, count))
    return np.stack((x, y, 0.3 * np.sin(3 * x + y) + 0.5 * np.abs(y) + 0.1 * x**3), axis=1)


def small_motion():
    return Similarity(1.0, Rotation.from_rotvec([0.02, -0.03, 0.01]).as_matrix(), np.array([0.02, 0.01, -0.02]))


@pytest.fixture
def open3d():
    return pytest.importorskip("open3d", exc_type=ImportError)


def open3d_cloud(open3d, points):
    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))


def test_normals_of_a_sphere_point_outwards_or_inwards():
    random = np.random.default_rng(1)
    points = random.normal(size=(5000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    normals = estimate_normals(points)
    assert np.abs(np.einsum("ni,ni->n", points, normals)).min() > 0.98
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)


def test_normals_of_lonely_points_are_stated():
    points = np.array([[0.0, 0, 0], [5, 0, 0], [5, 0.01, 0], [5, 0, 0.01]])
    normals = estimate_normals(points, radius=0.1)
    np.testing.assert_array_equal(normals[0], (0, 0, 1))
    np.testing.assert_allclose(np.abs(normals[1:]), np.tile((1.0, 0, 0), (3, 1)), atol=1e-12)


def test_normals_do_not_depend_on_the_chunks(monkeypatch):
    points = surface(300)
    whole = estimate_normals(points)
    monkeypatch.setattr("ivggt_jax.evaluate.clouds._CHUNK", 77)
    np.testing.assert_array_equal(estimate_normals(points), whole)


@pytest.mark.parametrize("radius", [np.inf, 0.08])
def test_open3d_agrees_on_normals(open3d, radius):
    points = surface()
    cloud = open3d_cloud(open3d, points)
    if np.isinf(radius):
        cloud.estimate_normals()
    else:
        cloud.estimate_normals(open3d.geometry.KDTreeSearchParamHybrid(radius=radius, max_nn=30))
    ours = estimate_normals(points, radius=radius)
    np.testing.assert_allclose(np.abs(np.einsum("ni,ni->n", ours, np.asarray(cloud.normals))), 1, atol=1e-6)


def test_outliers_go_and_the_rest_stays():
    points = np.concatenate((surface(), [[5.0, 5, 5], [-4, 0, 9]]))
    kept = remove_outliers(points, neighbours=20, deviations=5)
    np.testing.assert_array_equal(kept, points[:-2])


def test_open3d_agrees_on_outliers(open3d):
    points = surface() + np.random.default_rng(2).normal(scale=0.02, size=(2000, 3))
    expected, _ = open3d_cloud(open3d, points).remove_statistical_outlier(nb_neighbors=100, std_ratio=1.0)
    np.testing.assert_array_equal(remove_outliers(points), np.asarray(expected.points))


def test_voxels_keep_the_means():
    points = np.array([[0.0, 0, 0], [0.04, 0, 0], [0.1, 0, 0], [0.3, 0.2, 0.1]])
    down = voxel_downsample(points, 0.1)  # cubes start at −0.05
    np.testing.assert_allclose(down, [[0.02, 0, 0], [0.1, 0, 0], [0.3, 0.2, 0.1]], atol=1e-7)
    assert voxel_downsample(np.zeros((0, 3)), 0.1).shape == (0, 3)


def test_open3d_agrees_on_voxels(open3d):
    points = surface()
    expected = np.asarray(open3d_cloud(open3d, points).voxel_down_sample(0.1).points)
    ours = voxel_downsample(points, 0.1)
    # The means are kept in float32.
    np.testing.assert_allclose(ours[np.lexsort(ours.T)], expected[np.lexsort(expected.T)], atol=1e-6)


@pytest.mark.parametrize("to_planes", [False, True])
def test_registration_finds_a_known_motion(to_planes):
    target = surface()
    inverse = Similarity(1.0, small_motion().rotation.T, -small_motion().rotation.T @ small_motion().translation)
    normals = estimate_normals(target) if to_planes else None
    found = register(inverse.points(target), tree(target), 0.2, normals, iterations=200, tolerance=1e-12)
    np.testing.assert_allclose(found.transform.points(inverse.points(target)), target, atol=1e-6)
    assert found.fitness == 1
    assert found.rmse < 1e-6


def test_registration_in_place_does_not_move():
    target = surface()
    found = register(target, tree(target), 0.1)
    np.testing.assert_allclose(found.transform.points(target), target, atol=1e-12)


def test_registration_of_far_clouds_stays_where_it_is():
    found = register(surface() + 100, tree(surface()), 0.1)
    assert (found.fitness, found.rmse, found.iterations) == (0, 0, 0)
    np.testing.assert_array_equal(found.transform.translation, 0)


def test_planes_do_not_fix_what_slides():
    flat = surface() * (1, 1, 0)
    found = register(flat + (0.01, 0, 0.05), tree(flat), 0.2, np.tile((0.0, 0, 1), (len(flat), 1)))
    np.testing.assert_allclose(found.transform.translation, (0, 0, -0.05), atol=1e-9)


@pytest.mark.parametrize("to_planes", [False, True])
def test_open3d_agrees_on_registration(open3d, to_planes):
    target = surface()
    source = small_motion().points(surface(seed=3) + np.random.default_rng(4).normal(scale=0.01, size=(2000, 3)))
    methods = open3d.pipelines.registration
    clouds = [open3d_cloud(open3d, points) for points in (source, target)]
    clouds[1].estimate_normals()
    method = methods.TransformationEstimationPointToPlane() if to_planes else None
    expected = methods.registration_icp(*clouds, 0.1, np.eye(4), *([method] if to_planes else []))
    found = register(source, tree(target), 0.1, estimate_normals(target) if to_planes else None)
    assert found.fitness == pytest.approx(expected.fitness, abs=1e-3)
    assert found.rmse == pytest.approx(expected.inlier_rmse, abs=1e-5)
    moved = np.asarray(clouds[0].transform(expected.transformation).points)
    # Small angles are put together in another way for planes; both end where a step changes less than 1e-6.
    np.testing.assert_allclose(found.transform.points(source), moved, atol=1e-4 if to_planes else 1e-9)


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.zeros((5, 2))])
def test_a_cloud_must_be_one(points):
    with pytest.raises(ValueError, match="N, 3"):
        tree(points)
