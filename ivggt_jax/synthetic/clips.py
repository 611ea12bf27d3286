"""Training clips: a new scene, a walk through it, and all ground truth, from one key."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .. import geometry
from .paths import Look, camera_path
from .rendering import each_camera, render, tracks
from .scenes import Kind, make_scene

_FIELD_OF_VIEW = (45.0, 75.0)
"""Horizontal, in degrees."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clip:
    """T frames and their ground truth in the first camera's frame, in metres."""

    images: jax.Array
    """[T, H, W, 3] in [0, 1]."""
    depth: jax.Array
    """[T, H, W]: z in the camera; 0 where invalid."""
    points: jax.Array
    """[T, H, W, 3]; 0 where invalid."""
    valid: jax.Array
    """bool [T, H, W]"""
    cam_from_world: jax.Array
    """[T, 3, 4]; the world is the first camera's frame."""
    intrinsics: jax.Array
    """[T, 3, 3] in pixels."""
    pose_encoding: jax.Array
    """[T, 9]"""
    query_points: jax.Array
    """[N, 2] as (x, y) in pixels of the first frame."""
    tracks: jax.Array
    """[T, N, 2] in pixels."""
    visibility: jax.Array
    """bool [T, N]"""


def clip(
    key: jax.Array,
    frames: int,
    height: int,
    width: int,
    *,
    kind: Kind = "room",
    look: Look = "ahead",
    speed: float | jax.Array = 1.0,
    queries: int = 0,
) -> Clip:
    """A random clip: a pure function of its key, made to be jitted and mapped over keys.

    Scene, path, horizontal field of view (45 to 75 degrees) and `queries` points to track are drawn from the key. See
    `make_scene` and `camera_path` for the options, and for what they raise.
    """
    scene_key, path_key, view_key, query_key = jax.random.split(key, 4)
    scene = make_scene(scene_key, kind)
    cam_from_world = camera_path(path_key, scene, frames, speed=speed, look=look)
    low, high = _FIELD_OF_VIEW
    field_of_view = jnp.deg2rad(jax.random.uniform(view_key, (), minval=low, maxval=high))
    intrinsics = geometry.intrinsics_from_field_of_view(field_of_view, height, width)
    rendered = each_camera(
        lambda camera: render(scene, camera, intrinsics, height, width), cam_from_world, height * width
    )
    query_points = jax.random.uniform(query_key, (queries, 2)) * jnp.asarray((width - 1, height - 1))
    track, visibility = tracks(scene, query_points, cam_from_world, intrinsics, height, width)
    relative = geometry.relative_to_first(cam_from_world)
    points = geometry.unproject(rendered.depth, relative, rendered.intrinsics)
    return Clip(
        images=rendered.image,
        depth=rendered.depth,
        points=jnp.where(rendered.valid[..., None], points, 0),
        valid=rendered.valid,
        cam_from_world=relative,
        intrinsics=rendered.intrinsics,
        pose_encoding=geometry.pose_from_cameras(relative, rendered.intrinsics, height, width),
        query_points=query_points,
        tracks=track,
        visibility=visibility,
    )
