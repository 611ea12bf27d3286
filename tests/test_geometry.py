"""Geometry against the reference's numbers, SciPy, and its own inverses; float32, seeds below."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax import geometry

GOLDEN = Path(__file__).parent / "golden" / "pose.npz"
HEIGHT, WIDTH = 392, 518


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


def random_cameras(seed, *leading):
    """Rigid transforms [*leading, 3, 4] as float32, and their rotations as SciPy knows them."""
    generator = np.random.default_rng(seed)
    count = int(np.prod(leading))
    rotation = Rotation.random(count, random_state=seed).as_matrix().reshape(*leading, 3, 3)
    translation = generator.normal(size=(*leading, 3, 1))
    return jnp.asarray(np.concatenate((rotation, translation), axis=-1), jnp.float32)


def test_cameras_from_pose_golden(golden):
    cam_from_world, intrinsics = jax.jit(geometry.cameras_from_pose, static_argnums=(1, 2))(
        golden["pose_enc"], HEIGHT, WIDTH
    )
    np.testing.assert_allclose(cam_from_world, golden["extrinsics"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(intrinsics, golden["intrinsics"], rtol=0, atol=2e-4)


def test_pose_from_cameras_golden(golden):
    encoded = geometry.pose_from_cameras(golden["extrinsics"], golden["intrinsics"], HEIGHT, WIDTH)
    np.testing.assert_allclose(encoded, golden["reencoded"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_unproject_golden(golden, wrap):
    depth, cameras, intrinsics = (golden[k] for k in ("depth", "depth_extrinsics", "depth_intrinsics"))
    points = wrap(geometry.unproject)(depth[..., 0], cameras, intrinsics)
    np.testing.assert_allclose(points, golden["world_points"], rtol=0, atol=1e-6)


def test_pose_encoding_of_doubles_gives_no_warning():
    intrinsics = geometry.cameras_from_pose(np.array([0, 0, 0, 0, 0, 0, 1, 1, 1], np.float64), 56, 70)[1]
    np.testing.assert_allclose(intrinsics[:2, 2], (35, 28))


def test_pose_round_trip_is_batched():
    encoding = np.random.default_rng(0).normal(size=(2, 3, 4, 9)).astype(np.float32)
    encoding[..., 7:] = np.abs(encoding[..., 7:]) % 1.5 + 0.3
    encoded = geometry.pose_from_cameras(*geometry.cameras_from_pose(encoding, 56, 70), 56, 70)
    quaternion = encoding[..., 3:7] / np.linalg.norm(encoding[..., 3:7], axis=-1, keepdims=True)
    expected = encoding.copy()
    expected[..., 3:7] = quaternion * np.where(quaternion[..., 3:] < 0, -1, 1)
    np.testing.assert_allclose(encoded, expected, rtol=0, atol=2e-6)


def hard_rotations():
    """Half turns about many axes, tiny turns, and turns just short of a half: where naive formulas divide by zero."""
    axes = np.concatenate((np.eye(3), -np.eye(3), np.random.default_rng(1).normal(size=(20, 3))))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = (0.0, 1e-7, 1e-4, np.pi / 2, np.pi - 1e-4, np.pi - 1e-7, np.pi)
    return Rotation.from_rotvec(np.concatenate([axes * angle for angle in angles]))


@pytest.mark.parametrize("rotations", [Rotation.random(500, random_state=0), hard_rotations()], ids=["random", "hard"])
def test_quaternion_of_every_rotation(rotations):
    quaternion = np.asarray(geometry.quaternion_from_rotation(jnp.asarray(rotations.as_matrix(), jnp.float32)))
    expected = rotations.as_quat()
    assert (quaternion[:, 3] >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(quaternion, axis=1), 1, rtol=0, atol=3e-7)
    np.testing.assert_allclose(np.abs(np.sum(quaternion * expected, axis=1)), 1, rtol=0, atol=5e-7)
    again = geometry.rotation_from_quaternion(3 * quaternion)
    np.testing.assert_allclose(again, rotations.as_matrix(), rtol=0, atol=1e-6)


def test_quaternion_gradient_is_finite_and_right():
    rotations = jnp.asarray(hard_rotations().as_matrix(), jnp.float32)
    jacobian = jax.vmap(jax.jacrev(geometry.quaternion_from_rotation))(rotations)
    assert np.isfinite(jacobian).all()

    def re_encode(quaternion):
        return geometry.quaternion_from_rotation(geometry.rotation_from_quaternion(quaternion))

    quaternion = jnp.asarray([0.1, -0.7, 0.3, 0.6]) / np.sqrt(0.95)
    # On unit quaternions with w > 0 re-encoding is the projection on the sphere: I − q·qᵀ.
    expected = np.eye(4) - np.outer(quaternion, quaternion)
    np.testing.assert_allclose(jax.jacfwd(re_encode)(quaternion), expected, rtol=0, atol=2e-6)


def test_invert_and_compose():
    a, b = random_cameras(2, 5), random_cameras(3, 5)
    points = jnp.asarray(np.random.default_rng(4).normal(size=(5, 7, 3)), jnp.float32)
    identity = np.broadcast_to(np.eye(3, 4), (5, 3, 4))
    np.testing.assert_allclose(geometry.compose(a, geometry.invert(a)), identity, rtol=0, atol=1e-6)
    one_after_other = geometry.transform_points(a, geometry.transform_points(b, points))
    np.testing.assert_allclose(geometry.transform_points(geometry.compose(a, b), points), one_after_other, atol=4e-6)
    full = [np.concatenate((np.asarray(x, np.float64), np.tile([[[0, 0, 0, 1]]], (5, 1, 1))), 1) for x in (a, b)]
    np.testing.assert_allclose(geometry.compose(a, b), (full[0] @ full[1])[:, :3], rtol=0, atol=2e-6)


def test_relative_to_first():
    cameras = random_cameras(5, 2, 6)
    relative = geometry.relative_to_first(cameras)
    np.testing.assert_allclose(relative[:, 0], np.broadcast_to(np.eye(3, 4), (2, 3, 4)), rtol=0, atol=1e-6)
    restored = geometry.compose(relative, cameras[:, :1])
    np.testing.assert_allclose(restored, cameras, rtol=0, atol=3e-6)


def test_project_undoes_unproject():
    cameras = random_cameras(6, 3)
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.asarray([0.8, 1.0, 1.3]), 28, 42)
    depth = jnp.asarray(np.random.default_rng(7).uniform(0.5, 5, size=(3, 28, 42)), jnp.float32)
    points = geometry.unproject(depth, cameras, intrinsics).reshape(3, -1, 3)
    pixels, depths = geometry.project(points, cameras, intrinsics)
    u, v = np.meshgrid(np.arange(42), np.arange(28))
    np.testing.assert_allclose(pixels, np.broadcast_to(np.stack((u, v), -1).reshape(1, -1, 2), (3, 1176, 2)), atol=1e-4)
    np.testing.assert_allclose(depths, depth.reshape(3, -1), rtol=0, atol=4e-6)


def test_field_of_view_round_trip():
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.asarray(1.1), HEIGHT, WIDTH)
    encoding = geometry.pose_from_cameras(jnp.eye(3, 4), intrinsics, HEIGHT, WIDTH)
    np.testing.assert_allclose(encoding[8], 1.1, atol=1e-6)
    np.testing.assert_allclose(np.tan(encoding[7] / 2) / np.tan(encoding[8] / 2), HEIGHT / WIDTH, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geometry.cameras_from_pose(jnp.ones(8), 14, 14), r"pose_encoding .* \[8\]"),
        (lambda: geometry.pose_from_cameras(jnp.eye(4), jnp.eye(3), 14, 14), r"cam_from_world .* \[4, 4\]"),
        (lambda: geometry.pose_from_cameras(jnp.ones((2, 3, 4)), jnp.eye(3), 14, 14), "leading axes"),
        (lambda: geometry.unproject(jnp.ones((2, 4, 4)), jnp.eye(3, 4), jnp.eye(3)), "leading axes"),
    ],
)
def test_errors_name_the_offender(call, message):
    with pytest.raises(ValueError, match=message):
        call()
