"""Camera paths: sums of sines around a scene's way, so that any frame can be computed without the ones before it.

A path whose waves have a whole number of cycles in some number of frames closes exactly after it. Positions are float32: after
10,000 frames along a street, half a kilometre, they are rounded to 0.03 mm.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from .. import geometry
from .furniture import RING
from .hashing import Draws
from .scenes import Scene
from .waves import EndlessWaves, Waves
from .wayside import centre_line

Look = Literal["ahead", "aside"]

_OPEN_PERIOD = 32_768
"""Frames after which the waves of an open path repeat."""


def camera_path(
    key: jax.Array,
    scene: Scene,
    frames: int,
    *,
    start: int | jax.Array = 0,
    stride: int | jax.Array = 1,
    speed: float | jax.Array = 1.0,
    look: Look = "ahead",
    period: int | None = None,
) -> jax.Array:
    """cam_from_world [frames, 3, 4] of a handheld camera that walks through a scene and touches nothing.

    At speed 1 it moves 1 to 5 cm per frame on average and turns by up to 3 degrees, drawn from the key. `start` is the number of
    the first frame, `stride` the step from one to the next. A path is a pure function of key, scene and frame number, so its
    chunks join seamlessly. `look` is "ahead" along the way, or "aside": to the middle of a room, or to one side of a street. With
    a `period`, from 32 to 32,768 frames, the path is a loop that closes exactly: around a room, or back and forth along a street.
    Without one it continues (around and around in a room). Raises ValueError for an unknown look or a period out of range.
    """
    if look not in get_args(Look):
        raise ValueError(f"look must be one of {', '.join(get_args(Look))}, not {look!r}")
    if period is not None and not 32 <= period <= _OPEN_PERIOD:
        raise ValueError(f"period must be None or from 32 to {_OPEN_PERIOD} frames, not {period}")
    waves = Waves(_draws(key), _numbers(start, frames, stride), period or _OPEN_PERIOD, jnp.asarray(speed, jnp.float32))
    carriage = _STEADY if scene.kind == "room" else replace(_STEADY, wander=(0.2, 0.7))
    return _carried(scene, waves, carriage, look, closed=period is not None)


def returning_path(
    key: jax.Array, scene: Scene, frames: int, *, start: int | jax.Array = 0, speed: float | jax.Array = 1.0
) -> jax.Array:
    """cam_from_world [frames, 3, 4] of a camera that returns to all places of a room, each time in a different way.

    It circles like `camera_path` with look "aside", but with varying height and speed, and turns far away from the middle. A pure
    function of key, scene and frame number, without a period. Raises ValueError for a scene that is not a room.
    """
    if scene.kind != "room":
        raise ValueError(f"only in a room does a path return to its places, not in a {scene.kind}")
    waves = EndlessWaves(_draws(key), _numbers(start, frames), jnp.asarray(speed, jnp.float32))
    return _carried(scene, waves, _RESTLESS, "aside", closed=False)


@dataclass(frozen=True)
class _Carriage:
    """How a camera is carried: bounds of the values drawn for a path, in metres and radians."""

    height: tuple[float, float] = (1.25, 1.65)
    """Mean height of the eye above the ground."""
    rise: tuple[float, float] = (0.02, 0.12)
    """Vertical motion."""
    haste: tuple[float, float] = (0.0, 0.3)
    """How far it runs ahead of or behind its even pace around a room."""
    wander: tuple[float, float] = (0.1, 0.4)
    """Rotation to the left and right."""
    nod: tuple[float, float] = (0.03, 0.15)
    """Rotation up and down."""
    tilt: float = 0.05
    """Rotation about the optical axis."""


_STEADY = _Carriage()
# Never higher than 1.8 m, well below everything that hangs from a ceiling.
_RESTLESS = _Carriage(
    height=(1.2, 1.5), rise=(0.2, 0.3), haste=(0.3, 0.5), wander=(0.35, 0.6), nod=(0.15, 0.25), tilt=0.1
)


def _draws(key: jax.Array) -> Draws:
    return Draws(jax.random.bits(key, (), jnp.uint32), count=80)


def _numbers(start: int | jax.Array, frames: int, stride: int | jax.Array = 1) -> jax.Array:
    """Frame numbers, int32 [frames]."""
    return jnp.asarray(start, jnp.int32) + jnp.arange(frames, dtype=jnp.int32) * stride


def _carried(scene: Scene, waves: Waves, carriage: _Carriage, look: Look, closed: bool) -> jax.Array:
    """cam_from_world [T, 3, 4] of a camera that is carried along the scene's way."""
    draw = waves.draw
    sense = jnp.where(draw() < 0.5, -1.0, 1.0)
    pace = waves.speed * draw(0.012, 0.045)
    if scene.kind == "room":
        x, z, heading = _around_room(scene, waves, pace, sense, carriage.haste)
    else:
        x, z, heading = _along_way(scene, waves, pace, closed)
    y = -draw(*carriage.height) + waves.slow(draw(*carriage.rise)) + waves.tremor(0.003)
    # A camera that circles a room in the positive sense has its middle on the right.
    offset = sense * jnp.pi / 2 if look == "aside" else draw(-0.35, 0.35)
    yaw = heading + offset + waves.slow(draw(*carriage.wander)) + waves.tremor(0.003)
    pitch = draw(-0.2, 0.05) + waves.slow(draw(*carriage.nod)) + waves.tremor(0.003)
    roll = waves.slow(carriage.tilt) + waves.tremor(0.002)
    world_from_cam = jnp.concatenate((_rotation(yaw, pitch, roll), jnp.stack((x, y, z), axis=-1)[..., None]), axis=-1)
    return geometry.invert(world_from_cam)


def _around_room(
    scene: Scene, waves: Waves, pace: jax.Array, sense: jax.Array, haste: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x, z and heading, [T] each, on the free ring of a room."""
    half_width, _, half_length = scene.size
    radius = sum(RING) / 2
    rounds = waves.cycles(jnp.pi * radius * (half_width + half_length) / pace)
    angle = waves.draw(0.0, 2 * jnp.pi) + sense * waves.angle(rounds)
    # An uneven walk: ahead of or behind the even pace.
    angle += waves.slow(waves.draw(*haste))
    r = radius + waves.slow((RING[1] - RING[0]) / 2)
    heading = jnp.arctan2(sense * half_width * jnp.cos(angle), -sense * half_length * jnp.sin(angle))
    return half_width * r * jnp.sin(angle), half_length * r * jnp.cos(angle), heading


def _along_way(scene: Scene, waves: Waves, pace: jax.Array, closed: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x, z and heading, [T] each, along an endless scene."""
    if closed:
        z = pace * waves.period / (2 * jnp.pi) * (1 - jnp.cos(waves.angle(1)))
    else:
        # An uneven walk: up to 5 frames ahead of or behind the even pace.
        z = pace * (waves.frame.astype(jnp.float32) + waves.slow(5 / waves.speed))
    x = centre_line(scene.bends, z) + waves.slow(jnp.where(scene.kind == "street", 1.2, 0.15))
    ahead = centre_line(scene.bends, z + 1.0) - centre_line(scene.bends, z - 1.0)
    return x, z, jnp.arctan2(ahead, 2.0)


def _rotation(yaw: jax.Array, pitch: jax.Array, roll: jax.Array) -> jax.Array:
    """world_from_cam rotations [T, 3, 3]: roll about z, then pitch about x, then yaw about y, in radians."""
    turns = []
    for angle, axis in ((yaw, 1), (pitch, 0), (roll, 2)):
        half = angle[..., None] / 2
        quaternion = jnp.concatenate((jnp.sin(half) * jnp.eye(3)[axis], jnp.cos(half)), axis=-1)
        turns.append(geometry.rotation_from_quaternion(quaternion))
    return jnp.einsum("tij,tjk,tkl->til", *turns, precision="highest")
