"""Similarities and rotations against SciPy and their own inverses, of NumPy's arrays and JAX's; seeds below."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax import transforms
from ivggt_jax.transforms import Similarity


def random_similarity(seed, *leading):
    """A NumPy similarity, float64, and a JAX one, float32, of the same numbers."""
    generator = np.random.default_rng(seed)
    rotation = Rotation.random(int(np.prod(leading)), rng=generator).as_matrix().reshape(*leading, 3, 3)
    found = Similarity(generator.uniform(0.5, 2, leading), rotation, generator.normal(size=(*leading, 3)))
    return found, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), found)


@pytest.mark.parametrize("kind", [0, 1], ids=["numpy", "jax"])
def test_similarities_compose_and_invert(kind):
    first, second = (random_similarity(seed, 2, 4)[kind] for seed in (0, 1))
    points = np.random.default_rng(2).normal(size=(2, 4, 5, 3))
    tolerance = {"rtol": 0, "atol": (1e-14, 2e-6)[kind]}
    both = second.after(first).points(points)
    expected = np.einsum("...ij,...nj->...ni", first.rotation, points) * np.asarray(first.scale)[..., None, None]
    np.testing.assert_allclose(
        first.points(points), expected + np.asarray(first.translation)[..., None, :], **tolerance
    )
    np.testing.assert_allclose(both, second.points(first.points(points)), **tolerance)
    np.testing.assert_allclose(first.inverse().points(first.points(points)), points, **tolerance)
    assert isinstance(both, (np.ndarray, jax.Array)[kind])


@pytest.mark.parametrize("kind", [0, 1], ids=["numpy", "jax"])
def test_poses_are_moved_like_the_points_of_their_axes(kind):
    """A camera and its similarity image see the same: R'ᵀ(x' − c') = scale · Rᵀ(x − c)."""
    similarity, pose = random_similarity(3, 2)[kind], random_similarity(4, 2)[0]
    world_from_cam = np.concatenate((pose.rotation, pose.translation[..., None]), axis=-1)
    points = np.random.default_rng(5).normal(size=(2, 6, 3))

    def seen(pose, points):
        return np.einsum("bji,bnj->bni", pose[..., :3], points - pose[..., None, :, 3])

    moved = similarity.poses((np.asarray, jnp.asarray)[kind](world_from_cam))
    expected = np.asarray(similarity.scale)[:, None, None] * seen(world_from_cam, points)
    np.testing.assert_allclose(seen(np.asarray(moved), similarity.points(points)), expected, rtol=0, atol=5e-6)


def test_one_similarity_moves_points_of_any_shape():
    similarity, points = Similarity(2.0, translation=np.arange(3.0)), np.ones((2, 4, 5, 3))
    np.testing.assert_array_equal(similarity.points(points), 2 * points + np.arange(3.0))
    assert similarity.after(similarity).scale == 4
    np.testing.assert_array_equal(similarity.inverse().points(similarity.points(points)), points)


def test_identities_leave_poses_as_they_are_under_jit_and_vmap():
    poses = jnp.arange(24.0).reshape(2, 3, 4)
    found = jax.jit(jax.vmap(lambda similarity, pose: similarity.poses(pose)))(Similarity.identity(2), poses)
    np.testing.assert_array_equal(found, poses)


@pytest.mark.parametrize("length", [0.0, 1e-12, 1e-4, 9e-4, 1.1e-3, 0.5, 3.1])
def test_rotation_from_vector(length):
    vectors = np.random.default_rng(6).normal(size=(20, 3))
    vectors *= length / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = np.asarray(transforms.rotation_from_vector(jnp.asarray(vectors, jnp.float32)))
    np.testing.assert_allclose(found, Rotation.from_rotvec(vectors).as_matrix(), rtol=0, atol=5e-7)
    np.testing.assert_allclose(transforms.rotation_angle(found), length, rtol=1e-4, atol=2e-7)


def test_the_derivative_of_a_turn_at_zero_is_the_cross_product():
    jacobian = jax.jacfwd(transforms.rotation_from_vector)(jnp.zeros(3))
    for axis, vector in enumerate(np.eye(3)):
        np.testing.assert_array_equal(jacobian[..., axis], transforms.cross_matrix(jnp.asarray(vector)))
    backward = jax.jacrev(transforms.rotation_from_vector)(jnp.zeros(3))
    np.testing.assert_array_equal(backward, jacobian)


def test_cross_matrix():
    first, second = np.random.default_rng(7).normal(size=(2, 5, 3)).astype(np.float32)
    found = transforms.rotate(transforms.cross_matrix(jnp.asarray(first)), second)
    np.testing.assert_allclose(found, np.cross(first, second), rtol=0, atol=1e-6)
