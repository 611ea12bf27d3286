"""Endless synthetic videos with exact truth, for `evaluate stream` and the memory study.

A walk is a pure function of route, seed and frame number, so any part of it can be rendered without the frames before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax import geometry
from ivggt_jax.evaluate.depth import evaluate_depth
from ivggt_jax.synthetic import (
    Defects,
    Light,
    Look,
    Scene,
    camera_path,
    changing_light,
    each_camera,
    make_scene,
    moving_bodies,
    render,
    returning_path,
    taken,
)
from ivggt_jax.synthetic.primitives import Primitives
from ivggt_jax.synthetic.scenes import Kind
from ivggt_jax.trajectories.alignment import inverse

FIELD_OF_VIEW = 62.0
"""Horizontal field of view, in degrees."""
CHUNK = 10
"""Frames that are rendered and predicted at a time, and share one depth scale."""
HELD_OUT_SEED = 1 << 20
"""First of the seeds that no training uses."""
DefectName = Literal["none", "noise", "dark", "blur", "jpeg"]
DEFECTS: dict[DefectName, Defects | None] = {
    "none": None,
    "noise": Defects(noise=0.05),
    "dark": Defects(exposure=0.4),
    "blur": Defects(blur=1.0),
    "jpeg": Defects(quality=30),
}
"""How frames may be spoilt, one way at a time."""
RouteName = Literal["loop", "return", "corridor", "street", "doors", "crowd"]


def check_walks(routes: Sequence[RouteName], seeds: Sequence[int]) -> None:
    """Raises ValueError unless there are routes and seeds, each of them once: a walk is called by its route and seed."""
    for name, values in (("routes", routes), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} need an entry, and none twice: {' '.join(map(str, values)) or 'none are given'}")


def check_frames_per_step(frames: int) -> None:
    """Raises ValueError unless passes of so many frames make up a chunk."""
    if CHUNK % frames:
        raise ValueError(
            f"walks come in chunks of {CHUNK} frames: cache.frames_per_step must divide that, not be {frames}"
        )


@dataclass(frozen=True)
class Route:
    """Where a walk leads. At speed 2 it covers 2 to 9 cm per frame."""

    kind: Kind
    look: Look
    period: int | None
    """Frames after which it returns exactly; None: never."""
    varied: bool = False
    """Returns to its places on other paths and in other light: `returning_path`, whose look is always "aside"."""
    speed: float = 2.0
    bodies: int = 0
    """Number of moving bodies. With the same seed, scene and camera are those of a route without any."""


ROUTES: dict[RouteName, Route] = {
    "loop": Route("room", "aside", period=400),
    "return": Route("room", "aside", period=None, varied=True),
    "corridor": Route("corridor", "ahead", period=None),
    "street": Route("street", "ahead", period=None),
    "doors": Route("doors", "ahead", period=None),
    "crowd": Route("room", "aside", period=400, bodies=3),
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
    moving: np.ndarray | None = None
    """bool [T,H,W]: pixels of moving bodies; None on routes without any."""

    def cut(self, kept: slice) -> "WalkPart":
        """Some of the frames."""
        moving = None if self.moving is None else self.moving[kept]
        return WalkPart(self.images[kept], self.depth[kept], self.world_from_cam[kept], moving)

    @cached_property
    def constant_depth_error(self) -> np.ndarray:
        """[T]: AbsRel of the best constant depth for every `CHUNK` frames."""
        return depth_errors(np.ones_like(self.depth), self.depth).abs_rel


class Walk:
    """One endless video, height × width. With `remember`, rendered parts are kept in memory."""

    def __init__(
        self,
        route: RouteName,
        seed: int,
        height: int,
        width: int,
        remember: bool = False,
        defect: DefectName = "none",
    ):
        self.name = f"{route}-{seed}" if defect == "none" else f"{route}-{seed}-{defect}"
        self._defects = DEFECTS[defect]
        self.size = height, width
        self._remembered: dict[tuple[int, int], WalkPart] | None = {} if remember else None
        self._route = ROUTES[route]
        scene_key, self._path_key = jax.random.split(jax.random.key(seed))
        self._scene = make_scene(scene_key, self._route.kind)

    def part(self, start: int, frames: int) -> WalkPart:
        """The frames from number `start` on."""
        if self._remembered is not None and (start, frames) in self._remembered:
            return self._remembered[start, frames]
        images, depth, cam_from_world, moving = jax.device_get(
            _render(self._scene, self._path_key, start, frames, self._route, *self.size)
        )
        if self._defects is not None:
            images = np.asarray(_spoilt(self._path_key, start, images, self._defects))
        part = WalkPart(images, depth, inverse(cam_from_world.astype(np.float64)), moving)
        if self._remembered is not None:
            self._remembered[start, frames] = part
        return part


class DepthErrors(NamedTuple):
    """Errors of depth maps, [T] each."""

    abs_rel: np.ndarray
    scale: np.ndarray
    """True over predicted depth."""
    delta: np.ndarray
    """Share of pixels that are wrong by less than a factor of 1.25."""


def depth_errors(depth: np.ndarray, truth: np.ndarray) -> DepthErrors:
    """Errors of depth maps [T,H,W] after one scale per `CHUNK` frames.

    The scale has the least absolute error, as in `evaluate depth` for a whole sequence. NaN where no truth is known; where a
    prediction is not finite, AbsRel and scale are infinite and nothing is right.
    """
    errors, scales, deltas = np.empty((3, len(truth)))
    for start in range(0, len(truth), CHUNK):
        chunk = slice(start, start + CHUNK)
        if not (truth[chunk] > 0).any():
            errors[chunk] = scales[chunk] = deltas[chunk] = np.nan
        elif not np.isfinite(depth[chunk]).all():
            errors[chunk], scales[chunk], deltas[chunk] = np.inf, np.inf, 0.0
        else:
            found = evaluate_depth(list(zip(depth[chunk], truth[chunk], strict=True)), "scale")
            errors[chunk], scales[chunk] = [frame.abs_rel for frame in found.frames], found.scale
            deltas[chunk] = [frame.delta_1 for frame in found.frames]
    return DepthErrors(errors, scales, deltas)


@jax.jit
def _spoilt(key: jax.Array, start: int, images: jax.Array, defects: Defects) -> jax.Array:
    """Images uint8 [T,H,W,3] of the frames from number `start` on, as such a camera takes them."""

    def one(number: jax.Array, image: jax.Array) -> jax.Array:
        return taken(jax.random.fold_in(key, number), image[None] / 255, defects)[0]

    return jnp.round(255 * jax.vmap(one)(start + jnp.arange(len(images)), images)).astype(jnp.uint8)


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _render(
    scene: Scene, path_key: jax.Array, start: int, frames: int, route: Route, height: int, width: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Images uint8 [T,H,W,3], depth [T,H,W], cam_from_world [T,3,4] and, if there are bodies, their pixels [T,H,W]."""
    light = bodies = None
    if route.varied:
        cameras = returning_path(path_key, scene, frames, start=start, speed=route.speed)
        light = changing_light(jax.random.fold_in(path_key, 1), scene, frames, start=start)
    else:
        path = partial(camera_path, path_key, scene, speed=route.speed, look=route.look, period=route.period)
        cameras = path(frames, start=start)
        if route.bodies:
            key = jax.random.fold_in(path_key, 2)
            bodies = moving_bodies(key, scene, path, frames, count=route.bodies, start=start, speed=route.speed)
    intrinsics = geometry.intrinsics_from_field_of_view(jnp.deg2rad(FIELD_OF_VIEW), height, width)

    def one(
        view: tuple[jax.Array, Light | None, tuple[Primitives, Primitives] | None],
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        camera, light, bodies = view
        lit = scene if light is None else replace(scene, lighting=light.lighting)
        frame = render(lit, camera, intrinsics, height, width, bodies=bodies)
        image = frame.image if light is None else frame.image * light.exposure
        return jnp.round(255 * jnp.clip(image, 0, 1)).astype(jnp.uint8), frame.depth, frame.moving

    images, depth, moving = each_camera(one, (cameras, light, bodies), height * width)
    return images, depth, cameras, moving
