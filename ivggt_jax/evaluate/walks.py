"""Endless synthetic videos with exact truth: what `evaluate stream` and the memory study are measured on.

A walk is a pure function of its route, its seed and the frame number: any part of it can be had without the ones before.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax import geometry
from ivggt_jax.evaluate.trajectory import inverse
from ivggt_jax.synthetic import Look, Scene, camera_path, make_scene, render
from ivggt_jax.synthetic.scenes import Kind

FIELD_OF_VIEW = 62.0
"""Horizontal, in degrees."""
RouteName = Literal["loop", "corridor", "street"]


@dataclass(frozen=True)
class Route:
    """Where a walk leads. At speed 2 it covers 2 to 9 cm a frame."""

    kind: Kind
    look: Look
    period: int | None
    """Frames after which it comes back exactly; None: never."""
    speed: float = 2.0


ROUTES: dict[RouteName, Route] = {
    "loop": Route("room", "aside", period=400),
    "corridor": Route("corridor", "ahead", period=None),
    "street": Route("street", "ahead", period=None),
}


@dataclass(frozen=True, eq=False)
class WalkPart:
    """T frames of a walk, on the host."""

    images: np.ndarray
    """uint8 [T,H,W,3]"""
    depth: np.ndarray
    """float32 [T,H,W] in metres, 0 where unknown."""
    world_from_cam: np.ndarray
    """float64 [T,3,4]"""


class Walk:
    """One endless video, height × width."""

    def __init__(self, route: RouteName, seed: int, height: int, width: int):
        self.name = f"{route}-{seed}"
        self._route, self._size = ROUTES[route], (height, width)
        scene_key, self._path_key = jax.random.split(jax.random.key(seed))
        self._scene = make_scene(scene_key, self._route.kind)

    def part(self, start: int, frames: int) -> WalkPart:
        """The frames from number `start` on."""
        images, depth, cam_from_world = jax.device_get(
            _render(self._scene, self._path_key, start, frames, self._route, *self._size)
        )
        return WalkPart(images, depth, inverse(cam_from_world.astype(np.float64)))


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _render(
    scene: Scene, path_key: jax.Array, start: int, frames: int, route: Route, height: int, width: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images uint8 [T,H,W,3], depth [T,H,W] and cam_from_world [T,3,4]."""
    cameras = camera_path(path_key, scene, frames, start=start, speed=route.speed, look=route.look, period=route.period)
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(FIELD_OF_VIEW), height, width)

    def one(camera: jax.Array) -> tuple[jax.Array, jax.Array]:
        frame = render(scene, camera, intrinsics, height, width)
        return jnp.round(255 * jnp.clip(frame.image, 0, 1)).astype(jnp.uint8), frame.depth

    images, depth = jax.lax.map(one, cameras)
    return images, depth, cameras
