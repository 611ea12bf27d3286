"""Bodies that move through a scene: boxes, cylinders, ellipsoids, and figures with parts that move relative to each other.

A body moves to where the camera will look: along a uniform cubic B-spline through places in front of cameras of its path, some
frames apart, each with a random offset. So any frame can be computed without the ones before it, as for the camera.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from .. import geometry
from .hashing import Draws, derive
from .primitives import BALL, BOX, CYLINDER, Primitives, to_world
from .scenes import Scene
from .wayside import centre_line


class CameraAt(Protocol):
    """`camera_path` with its key, scene and options fixed."""

    def __call__(self, frames: int, *, start: int | jax.Array, stride: int | jax.Array) -> jax.Array:
        """cam_from_world [frames, 3, 4]."""


PARTS = 5
"""Primitives of a body: trunk, head, two legs, and arms. Unless it is a figure, all but the trunk are hidden inside it."""
_APART = 20
"""Frames at speed 1 between places of the spline; at least `_LEAST`."""
_LEAST = 2
_STRIDE = 24
"""Duration of a figure's two steps, in frames at speed 1."""
_KEPT = 0.9
"""Least distance of bodies from the camera, in metres on the ground."""
_BURIED = 1e3
"""Depth in metres below the ground at which absent bodies are placed."""


def moving_bodies(
    key: jax.Array,
    scene: Scene,
    camera_at: CameraAt,
    frames: int,
    *,
    count: int,
    least: int | None = None,
    start: int | jax.Array = 0,
    speed: float | jax.Array = 1.0,
) -> tuple[Primitives, Primitives]:
    """`count` bodies in consecutive frames starting at number `start`, and in the frame after each, [frames, count · PARTS].

    With `least`, the key draws their number between `least` and `count`; the others are out of sight. `speed` is that of the
    camera's path. Bodies may pass through furniture and each other. A pure function of key, scene, path and frame number.
    """
    seed = jax.random.bits(key, (), jnp.uint32)
    present = jnp.arange(count) < (count if least is None else jnp.floor(Draws(seed)(least, count + 1)))
    draw = Draws(derive(seed, jnp.arange(count)), count=40)
    apart = jnp.maximum(jnp.round(_APART / jnp.asarray(speed, jnp.float32)), _LEAST).astype(jnp.int32)
    numbers = jnp.asarray(start, jnp.int32) + jnp.arange(frames + 1, dtype=jnp.int32)
    first = numbers[0] // apart - 1
    anchors = camera_at(frames // _LEAST + 5, start=first * apart, stride=apart)
    places, turns = _places(draw, derive(seed, jnp.arange(count)), scene, anchors, first)
    whole, part = numbers // apart - first, (numbers % apart).astype(jnp.float32) / apart
    place = _kept_away(_spline(places, whole, part), camera_at(frames + 1, start=start, stride=1))
    stride = numbers.astype(jnp.float32)[:, None] * (speed / _STRIDE) + draw()
    bodies = _assembled(draw, present, place, _spline(turns, whole, part), jnp.sin(2 * jnp.pi * stride))
    return jax.tree.map(lambda array: array[:-1], bodies), jax.tree.map(lambda array: array[1:], bodies)


def _places(
    draw: Draws, seeds: jax.Array, scene: Scene, anchors: jax.Array, first: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Target places in front of cameras [A, 3, 4], numbered from `first` on: x and z [A, K, 2], and yaw [A, K, 1]."""
    world_from_cam = geometry.invert(anchors)
    centre, forward = world_from_cam[:, None, ::2, 3], world_from_cam[:, None, ::2, 2]
    forward = forward / jnp.maximum(jnp.linalg.norm(forward, axis=-1, keepdims=True), 1e-6)
    aside = jnp.stack((forward[..., 1], -forward[..., 0]), axis=-1)
    number = first + jnp.arange(anchors.shape[0], dtype=jnp.int32)
    wander = Draws(derive(seeds[None], number[:, None]), count=3)
    distance = draw(1.7, 3.6) + wander(-0.5, 0.5)
    lateral = distance * (draw(-0.35, 0.35) + wander(-0.3, 0.3))
    place = centre + distance[..., None] * forward + lateral[..., None] * aside
    if scene.kind == "room":
        reach = 0.85 * scene.size[::2]
        place = jnp.clip(place, -reach, reach)
    else:
        middle = centre_line(scene.bends, place[..., 1])
        reach = 0.6 * scene.size[0]
        place = place.at[..., 0].set(middle + jnp.clip(place[..., 0] - middle, -reach, reach))
    turn = draw(0, 2 * jnp.pi) + draw(-0.5, 0.5) * number[:, None] + wander(-0.5, 0.5)
    return place, turn[..., None]


def _spline(values: jax.Array, whole: jax.Array, part: jax.Array) -> jax.Array:
    """The uniform cubic B-spline [T, ...] with control values [A, ...], at number `whole` [T] plus fraction `part` [T]."""
    t = part.reshape(-1, *(1,) * (values.ndim - 1))
    weights = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3
    near = (values[whole + i - 1] for i in range(4))
    return sum((weight * value for weight, value in zip(weights, near, strict=True)), jnp.zeros(())) / 6


def _kept_away(place: jax.Array, cam_from_world: jax.Array) -> jax.Array:
    """Places [T, K, 2] moved smoothly away from the cameras [T, 3, 4], to a distance of at least `_KEPT`."""
    camera = geometry.invert(cam_from_world)[:, None, ::2, 3]
    offset = place - camera
    distance = jnp.maximum(jnp.linalg.norm(offset, axis=-1, keepdims=True), 1e-6)
    return camera + offset * jnp.hypot(distance, _KEPT) / distance


def _assembled(draw: Draws, present: jax.Array, place: jax.Array, yaw: jax.Array, swing: jax.Array) -> Primitives:
    """The parts [T, K · PARTS] of bodies at places [T, K, 2], with yaw [T, K, 1] and phase `swing` [T, K] of their stride.

    Those that are not `present` [K] are below the ground.
    """
    frames, count = swing.shape
    kind = jnp.floor(draw(0, 5)).astype(jnp.int32)  # 0: box, 1: ellipsoid, 2: cylinder, others: figure
    figure = kind > 2
    size, rise = draw(0.75, 1.1), draw(0.25, 0.8)
    plain = jnp.stack((draw(0.15, 0.4), rise, draw(0.15, 0.4)), axis=-1)
    # For figures: half extents and offsets of the parts, for a height of 1.7 m.
    half = size[:, None, None] * jnp.asarray(
        ((0.2, 0.34, 0.13), (0.12, 0.16, 0.13), (0.08, 0.4, 0.1), (0.08, 0.4, 0.1), (0.5, 0.06, 0.06))
    )
    half = jnp.where(figure[:, None, None], half, plain[:, None] * jnp.asarray((1, 0.3, 0.3, 0.3, 0.3))[:, None])
    offset = size[:, None, None] * jnp.asarray(
        ((0.0, -1.1, 0.0), (0.0, -1.58, 0.0), (-0.1, -0.4, 0.0), (0.1, -0.4, 0.0), (0.0, -1.32, 0.0))
    )
    step = size * draw(0.1, 0.3)
    stepping = jnp.asarray((0.0, 0.0, 1.0, -1.0, 0.0)) * (step * swing)[..., None]
    offset = offset + stepping[..., None] * jnp.asarray((0.0, 0.0, 1.0))
    # Ellipsoids hover, the others stand on the ground.
    height = -rise - jnp.where(kind == 1, draw(0.1, 0.7), 0)
    lifted = height[:, None] * jnp.asarray((0.0, 1.0, 0.0))
    offset = jnp.where(figure[:, None, None], offset, lifted[:, None])
    twist = jnp.asarray((0.0, 0.0, 0.0, 0.0, 1.0)) * (draw(0.2, 0.6) * swing * figure)[..., None]
    level = jnp.broadcast_to(jnp.where(present, 0, _BURIED), (frames, count))
    ground = jnp.stack((place[..., 0], level, place[..., 1]), axis=-1)[:, :, None]
    trunk = jnp.where(kind == 1, BALL, jnp.where((kind == 2) | (draw() < 0.5) & figure, CYLINDER, BOX))
    parts = jnp.broadcast_to(jnp.asarray((BOX, BALL, BOX, BOX, BOX)), (count, PARTS)).at[:, 0].set(trunk)
    seed = derive((draw() * 2**24).astype(jnp.uint32)[:, None], jnp.arange(PARTS))
    made = Primitives(
        shape=parts,
        centre=ground + to_world(offset, yaw),
        half=half,
        yaw=yaw + twist,
        seed=seed,
        grain=jnp.broadcast_to(draw(0.25, 0.9)[:, None], (count, PARTS)),
    )
    rows = {"shape": (), "centre": (3,), "half": (3,), "yaw": (), "seed": (), "grain": ()}
    return Primitives(**{
        name: jnp.broadcast_to(getattr(made, name), (frames, count, PARTS, *axes)).reshape(frames, -1, *axes)
        for name, axes in rows.items()
    })  # fmt: skip
