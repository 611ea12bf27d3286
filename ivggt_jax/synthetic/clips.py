"""Training clips: a new scene, a walk through it, and all ground truth, from one key."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from .. import geometry
from ..transforms import rotate
from .bodies import moving_bodies
from .paths import Look, camera_path
from .primitives import Primitives
from .rendering import SyntheticFrame, each_camera, render, tracks
from .scenes import Kind, make_scene

_FIELD_OF_VIEW = (45.0, 75.0)
"""Horizontal field of view in degrees."""
_BODIES = 4
"""Separates the random stream of moving bodies."""


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
    moving: jax.Array | None = None
    """bool [T, H, W]: pixels of moving bodies; None if there can be none."""
    flow: jax.Array | None = None
    """[T, H, W, 3]: motion of the visible points until the next frame; None likewise."""


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
    bodies: int = 0,
) -> Clip:
    """A random clip: a pure function of its key, suited to jit and vmap over keys.

    The key determines scene, path, horizontal field of view (45 to 75 degrees), `queries` points to track and, if `bodies` is
    set, up to that many moving bodies (`moving_bodies`); everything else is the same without bodies. See `make_scene` and
    `camera_path` for the options and their errors. Raises ValueError for queries together with bodies, whose motion tracks
    ignore.
    """
    if queries and bodies:
        raise ValueError(f"{queries} points cannot be tracked among {bodies} moving bodies: tracks are of still scenes")
    scene_key, path_key, view_key, query_key = jax.random.split(key, 4)
    scene = make_scene(scene_key, kind)
    path = partial(camera_path, path_key, scene, speed=speed, look=look)
    cam_from_world = path(frames)
    low, high = _FIELD_OF_VIEW
    field_of_view = jnp.deg2rad(jax.random.uniform(view_key, (), minval=low, maxval=high))
    intrinsics = geometry.intrinsics_from_field_of_view(field_of_view, height, width)
    around = None
    if bodies:
        body_key = jax.random.fold_in(key, _BODIES)
        around = moving_bodies(body_key, scene, path, frames, count=bodies, least=0, speed=speed)

    def one(view: tuple[jax.Array, tuple[Primitives, Primitives] | None]) -> SyntheticFrame:
        return render(scene, view[0], intrinsics, height, width, bodies=view[1])

    rendered = each_camera(one, (cam_from_world, around), height * width)
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
        moving=rendered.moving,
        flow=None if rendered.flow is None else rotate(cam_from_world[0, :, :3], rendered.flow),
    )
