"""Cameras, pose encodings, projection and unprojection.

Every function is pure, batched over leading axes, and works under jit and grad. Axes follow OpenCV: x right, y down, z forward. A
rigid transform is a [3, 4] matrix [R | t]; `cam_from_world` maps world points into the camera. Pixel coordinates (u, v) are
integer at pixel centres, and the principal point of a pose encoding is exactly (width/2, height/2).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from ivggt_jax.transforms import rotate

AnyArray = jax.Array | np.ndarray


def cameras_from_pose(
    pose_encoding: Real[AnyArray, "..."], height: int, width: int
) -> tuple[Real[Array, "*axes 3 4"], Real[Array, "*axes 3 3"]]:
    """Decode pose encodings into cameras for an image size in pixels.

    pose_encoding [..., 9]: translation 3, quaternion xyzw of any length 4, vertical and horizontal field of view 2 in radians.
    Returns cam_from_world [..., 3, 4] and intrinsics [..., 3, 3] in pixels. A field of view of zero gives an infinite focal
    length. Raises ValueError when the last axis is not 9.
    """
    _check_shape("pose_encoding", pose_encoding, (9,))
    translation, quaternion, field_of_view = jnp.split(pose_encoding, (3, 7), axis=-1)
    cam_from_world = _join(rotation_from_quaternion(quaternion), translation)
    centre = jnp.asarray((height / 2, width / 2), field_of_view.dtype)
    focal = centre / jnp.tan(field_of_view / 2)
    return cam_from_world, _intrinsics(focal[..., 1], focal[..., 0], width, height)


def pose_from_cameras(
    cam_from_world: Float[AnyArray, "..."], intrinsics: Float[AnyArray, "..."], height: int, width: int
) -> Float[Array, "*axes 9"]:
    """Encode cameras as pose encodings [..., 9]; the inverse of `cameras_from_pose`.

    cam_from_world [..., 3, 4]; intrinsics [..., 3, 3] in pixels of a height × width image; only their focal lengths are kept.
    Quaternions have unit length and w ≥ 0. Raises ValueError for other shapes or differing leading axes.
    """
    _check_shape("cam_from_world", cam_from_world, (3, 4))
    _check_shape("intrinsics", intrinsics, (3, 3))
    if cam_from_world.shape[:-2] != intrinsics.shape[:-2]:
        raise ValueError(
            f"cam_from_world {cam_from_world.shape} and intrinsics {intrinsics.shape} must agree in their leading axes"
        )
    focal = jnp.stack((intrinsics[..., 1, 1], intrinsics[..., 0, 0]), axis=-1)
    field_of_view = 2 * jnp.arctan(jnp.asarray((height / 2, width / 2), jnp.result_type(focal, jnp.float32)) / focal)
    quaternion = quaternion_from_rotation(cam_from_world[..., :3])
    return jnp.concatenate((cam_from_world[..., 3], quaternion, field_of_view), axis=-1)


def intrinsics_from_field_of_view(
    horizontal: float | Float[AnyArray, "*axes"], height: int, width: int
) -> Float[Array, "*axes 3 3"]:
    """Intrinsics [..., 3, 3] of square pixels from a horizontal field of view [...] in radians."""
    focal = width / 2 / jnp.tan(jnp.asarray(horizontal) / 2)
    return _intrinsics(focal, focal, width, height)


def rotation_from_quaternion(quaternion: Float[AnyArray, "*axes 4"]) -> Float[Array, "*axes 3 3"]:
    """Rotation matrices [..., 3, 3] from quaternions xyzw [..., 4] of any non-zero length."""
    x, y, z, w = (quaternion[..., i] for i in range(4))
    s = 2 / jnp.sum(quaternion * quaternion, axis=-1)
    rows = (
        (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        (s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
        (s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
    )
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_rotation(rotation: Float[AnyArray, "*axes 3 3"]) -> Float[Array, "*axes 4"]:
    """Unit quaternions xyzw [..., 4] with w ≥ 0 from rotation matrices [..., 3, 3].

    4·q·qᵀ is linear in the rotation. The row with the largest diagonal entry is a multiple of q of length ≥ 2, so normalising it
    is accurate and differentiable for every rotation.
    """
    r = [[rotation[..., i, j] for j in range(3)] for i in range(3)]
    xy, xz, yz = r[1][0] + r[0][1], r[0][2] + r[2][0], r[2][1] + r[1][2]
    xw, yw, zw = r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]
    squares = (
        1 + r[0][0] - r[1][1] - r[2][2],
        1 - r[0][0] + r[1][1] - r[2][2],
        1 - r[0][0] - r[1][1] + r[2][2],
        1 + r[0][0] + r[1][1] + r[2][2],
    )
    x, y, z, w = squares
    outer = ((x, xy, xz, xw), (xy, y, yz, yw), (xz, yz, z, zw), (xw, yw, zw, w))
    rows = jnp.stack([jnp.stack(row, axis=-1) for row in outer], axis=-2)
    largest = jnp.argmax(jnp.stack(squares, axis=-1), axis=-1)
    row = jnp.take_along_axis(rows, largest[..., None, None], axis=-2)[..., 0, :]
    row = row / jnp.linalg.norm(row, axis=-1, keepdims=True)
    return jnp.where(row[..., 3:] < 0, -row, row)


def invert(transform: Float[AnyArray, "*axes 3 4"]) -> Float[Array, "*axes 3 4"]:
    """Inverse [..., 3, 4] of rigid transforms [..., 3, 4], such as world_from_cam from cam_from_world."""
    rotation = jnp.swapaxes(transform[..., :3], -1, -2)
    return _join(rotation, -rotate(rotation, transform[..., 3]))


def compose(
    a_from_b: Float[AnyArray, "*#axes 3 4"], b_from_c: Float[AnyArray, "*#axes 3 4"]
) -> Float[Array, "*axes 3 4"]:
    """a_from_c [..., 3, 4] from two rigid transforms [..., 3, 4]; leading axes broadcast."""
    rotation = jnp.matmul(a_from_b[..., :3], b_from_c[..., :3], precision="highest")
    return _join(rotation, transform_points(a_from_b, b_from_c[..., None, :, 3])[..., 0, :])


def relative_to_first(cam_from_world: Float[AnyArray, "*axes T 3 4"]) -> Float[Array, "*axes T 3 4"]:
    """Cameras [..., T, 3, 4] of a sequence, expressed in the frame of its first camera."""
    return compose(cam_from_world, invert(cam_from_world[..., :1, :, :]))


def transform_points(
    transform: Float[AnyArray, "... 3 4"], points: Float[AnyArray, "... N 3"]
) -> Float[Array, "... N 3"]:
    """Points [..., N, 3] transformed by rigid transforms [..., 3, 4]; leading axes broadcast."""
    return rotate(transform[..., None, :, :3], points) + transform[..., None, :, 3]


def project(
    points: Float[AnyArray, "... N 3"],
    cam_from_world: Float[AnyArray, "... 3 4"],
    intrinsics: Float[AnyArray, "... 3 3"],
) -> tuple[Float[Array, "*axes N 2"], Float[Array, "*axes N"]]:
    """Pixels [..., N, 2] as (u, v), and depths [..., N], of world points [..., N, 3].

    cam_from_world [..., 3, 4], intrinsics [..., 3, 3] without skew; leading axes broadcast. Points with a depth ≤ 0
    are behind the camera and their pixels mean nothing.
    """
    in_camera = transform_points(cam_from_world, points)
    depth = in_camera[..., 2]
    focal, centre = _focal_and_centre(intrinsics)
    return in_camera[..., :2] / depth[..., None] * focal[..., None, :] + centre[..., None, :], depth


def unproject(
    depth: Float[AnyArray, "*axes H W"], cam_from_world: Float[AnyArray, "..."], intrinsics: Float[AnyArray, "..."]
) -> Float[Array, "*axes H W 3"]:
    """World points [..., H, W, 3] of depth maps [..., H, W]; depth is z in the camera, not distance.

    cam_from_world [..., 3, 4]; intrinsics [..., 3, 3] in pixels, without skew. Raises ValueError when the leading axes of the
    three differ.
    """
    _check_shape("cam_from_world", cam_from_world, (3, 4))
    _check_shape("intrinsics", intrinsics, (3, 3))
    leading = depth.shape[:-2]
    if cam_from_world.shape[:-2] != leading or intrinsics.shape[:-2] != leading:
        raise ValueError(
            f"depth {depth.shape}, cam_from_world {cam_from_world.shape} and intrinsics {intrinsics.shape} "
            "must agree in their leading axes: [..., H, W], [..., 3, 4] and [..., 3, 3]"
        )
    height, width = depth.shape[-2:]
    in_camera = depth[..., None] * pixel_rays(intrinsics, height, width)
    rotation, translation = cam_from_world[..., None, None, :, :3], cam_from_world[..., None, None, :, 3]
    return rotate(jnp.swapaxes(rotation, -1, -2), in_camera - translation)


def pixel_rays(
    intrinsics: Float[AnyArray, "*axes 3 3"], height: int, width: int
) -> Float[Array, "*axes {height} {width} 3"]:
    """Ray directions [..., H, W, 3] in the camera, with z = 1, through the centres of all pixels of an image."""
    grid = jnp.meshgrid(jnp.arange(width), jnp.arange(height))
    pixels = jnp.stack(grid, axis=-1).astype(intrinsics.dtype)
    focal, centre = _focal_and_centre(intrinsics[..., None, None, :, :])
    xy = (pixels - centre) / focal
    return jnp.concatenate((xy, jnp.ones_like(xy[..., :1])), axis=-1)


def _join(rotation: AnyArray, translation: AnyArray) -> jax.Array:
    return jnp.concatenate((rotation, translation[..., None]), axis=-1)


def _focal_and_centre(intrinsics: AnyArray) -> tuple[AnyArray, AnyArray]:
    focal = jnp.stack((intrinsics[..., 0, 0], intrinsics[..., 1, 1]), axis=-1)
    return focal, intrinsics[..., :2, 2]


def _intrinsics(focal_x: AnyArray, focal_y: AnyArray, width: int, height: int) -> jax.Array:
    zero, one = jnp.zeros_like(focal_x), jnp.ones_like(focal_x)
    rows = ((focal_x, zero, one * (width / 2)), (zero, focal_y, one * (height / 2)), (zero, zero, one))
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def _check_shape(name: str, array: AnyArray, trailing: tuple[int, ...]) -> None:
    if array.shape[-len(trailing) :] != trailing:
        raise ValueError(f"{name} must end in axes {list(trailing)}, but its shape is {list(array.shape)}")
