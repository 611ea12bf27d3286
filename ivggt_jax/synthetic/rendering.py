"""Frames, depth and tracks of a scene, exact to float rounding."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import jax.numpy as jnp

from .. import geometry
from ..kernels import platform
from ..transforms import rotate
from .primitives import Primitives, cast, concatenate, to_local, to_world
from .scenes import Scene, visible_primitives
from .shading import shade

Camera = TypeVar("Camera")
Rendered = TypeVar("Rendered")

AT_ONCE = 1 << 19
"""Pixels of a clip that a GPU renders at once."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class SyntheticFrame:
    """A rendered frame and its ground truth; stacked when rendered under vmap or `each_camera`."""

    image: jax.Array
    """[H, W, 3] in [0, 1]."""
    depth: jax.Array
    """[H, W]: z in the camera; 0 where invalid."""
    points: jax.Array
    """[H, W, 3] in the world; 0 where invalid."""
    valid: jax.Array
    """bool [H, W]: a surface is there, closer than the scene's far limit."""
    cam_from_world: jax.Array
    """[3, 4]"""
    intrinsics: jax.Array
    """[3, 3] in pixels."""
    moving: jax.Array | None = None
    """bool [H, W]: the pixel shows a moving body; None for a scene rendered without any."""
    flow: jax.Array | None = None
    """[H, W, 3]: motion of the visible point in the world until the next frame, in metres; None likewise."""


def render(
    scene: Scene,
    cam_from_world: jax.Array,
    intrinsics: jax.Array,
    height: int,
    width: int,
    supersample: int = 1,
    bodies: tuple[Primitives, Primitives] | None = None,
) -> SyntheticFrame:
    """Render one frame: cam_from_world [3, 4], intrinsics [3, 3] in pixels of a height × width image.

    Depth belongs to the ray through the pixel's centre, at integer coordinates. With `supersample` n, colours are means over n ×
    n rays around it, which smooths edges at n² times the cost. `bodies` are moving ones in this frame and in the next.
    """
    world_from_cam = geometry.invert(cam_from_world)
    origin, rotation = world_from_cam[:, 3], world_from_cam[:, :3]
    rays = geometry.pixel_rays(intrinsics, height, width)
    primitives = visible_primitives(scene, origin, rotate(rotation, rays))
    still = primitives.shape.shape[0]
    if bodies is not None:
        primitives = concatenate([primitives, bodies[0]])
    pixel = 1 / intrinsics[0, 0]

    def shoot(shift: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        directions = rotate(rotation, rays + jnp.append(shift * pixel, 0))
        return shade(scene, primitives, origin, directions, pixel)

    image, depth, index = shoot(jnp.zeros(2))
    if supersample > 1:
        steps = (jnp.arange(supersample) - (supersample - 1) / 2) / supersample
        shifts = jnp.stack(jnp.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        image = jnp.mean(jax.lax.map(lambda shift: shoot(shift)[0], shifts), axis=0)
    valid = depth > 0
    points = jnp.where(valid[..., None], geometry.unproject(depth, cam_from_world, intrinsics), 0)
    frame = SyntheticFrame(image, depth, points, valid, cam_from_world, intrinsics)
    if bodies is None:
        return frame
    moving = valid & (index >= still)
    flow = jnp.where(moving[..., None], _carried(*bodies, jnp.maximum(index - still, 0), points) - points, 0)
    return replace(frame, moving=moving, flow=flow)


def _carried(now: Primitives, later: Primitives, index: jax.Array, points: jax.Array) -> jax.Array:
    """Later positions of points [..., 3] on the primitives index [...]."""
    before, after = (jax.tree.map(lambda array: array[index], primitives) for primitives in (now, later))
    return after.centre + to_world(to_local(points - before.centre, before.yaw), after.yaw)


def each_camera(function: Callable[[Camera], Rendered], cameras: Camera, pixels: int) -> Rendered:
    """Apply the function to each of the cameras [T, 3, 4] and stack the results; `pixels` is the number per frame.

    Cameras may be any pytree of arrays [T, ...], such as cameras with the light of their frames.

    On a CPU this runs one camera after the other; on other devices, where many small kernels would take long, `AT_ONCE` pixels
    together.
    """
    at_once = None if platform() == "cpu" else max(AT_ONCE // pixels, 1)
    return jax.lax.map(function, cameras, batch_size=at_once)


def tracks(
    scene: Scene, query_points: jax.Array, cam_from_world: jax.Array, intrinsics: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """Positions in all frames of the points seen at pixels of the first frame.

    query_points [N, 2] as (x, y) in pixels; cam_from_world [T, 3, 4]; intrinsics [3, 3], the same for all. Returns tracks [T, N,
    2] in pixels and visibility bool [T, N]: inside the image, in front of the camera, and not occluded according to a ray cast to
    the point. A query on the background stays in place and is never visible.
    """
    focal, centre = jnp.diagonal(intrinsics)[:2], intrinsics[:2, 2]
    rays = jnp.concatenate(((query_points - centre) / focal, jnp.ones_like(query_points[:, :1])), axis=-1)
    depth = _first_hit(scene, cam_from_world[0], rays)
    seen = jnp.isfinite(depth)
    in_camera = rays * jnp.where(seen, depth, 1)[:, None]
    points = geometry.transform_points(geometry.invert(cam_from_world[0]), in_camera)
    pixels, depths = geometry.project(points, cam_from_world, intrinsics)

    def unobstructed(camera: jax.Array) -> jax.Array:
        towards = geometry.transform_points(camera, points)
        in_front = towards[:, 2] > 1e-3
        ray = towards / jnp.where(in_front, towards[:, 2], 1)[:, None]
        return in_front & (_first_hit(scene, camera, ray) > towards[:, 2] * (1 - 1e-3))

    inside = jnp.all((pixels > -0.5) & (pixels < jnp.asarray((width, height)) - 0.5), axis=-1)
    visibility = seen & inside & (depths > 0) & each_camera(unobstructed, cam_from_world, len(query_points))
    return jnp.where(seen[:, None], pixels, query_points), visibility


def _first_hit(scene: Scene, cam_from_world: jax.Array, rays: jax.Array) -> jax.Array:
    """Depth [N] (z in the camera, inf for a miss) along rays [N, 3] in the camera with z = 1."""
    world_from_cam = geometry.invert(cam_from_world)
    origin, directions = world_from_cam[:, 3], rotate(world_from_cam[:, :3], rays)
    depth = cast(visible_primitives(scene, origin, directions), origin, directions)[0]
    return jnp.where(depth * jnp.linalg.norm(rays, axis=-1) < scene.far, depth, jnp.inf)
