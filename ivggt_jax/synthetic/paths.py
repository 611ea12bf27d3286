"""Camera paths: sums of sines about a scene's way, so that any frame can be computed without the ones before it.

Phases are computed in integers modulo a whole number of frames, so that they do not blur with the number of the frame,
and a path closes exactly where it is to come back. Positions are float32: 10,000 frames down a street, half a kilometre
away, they are rounded to 0.03 mm.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from .. import geometry
from .furniture import RING
from .hashing import Draws
from .scenes import Scene
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
    speed: float | jax.Array = 1.0,
    look: Look = "ahead",
    period: int | None = None,
) -> jax.Array:
    """cam_from_world [frames, 3, 4] of a handheld camera that walks through a scene and touches nothing.

    At speed 1 a step is 1 to 5 cm on average and a turn up to 3 degrees a frame, drawn from the key. `start` is the number of the
    first frame: a path is a pure function of key, scene and frame number, so that its chunks join without a seam.
    `look` is "ahead" along the way, or "aside": to the middle of a room, to one side of a street. With a `period`, from
    32 to 32,768 frames, the path is a loop that comes back exactly: around a room, to and fro along a street. Without,
    it goes on (around and around in a room). Raises ValueError for an unknown look or a period out of range.
    """
    if look not in get_args(Look):
        raise ValueError(f"look must be one of {', '.join(get_args(Look))}, not {look!r}")
    if period is not None and not 32 <= period <= _OPEN_PERIOD:
        raise ValueError(f"period must be None or from 32 to {_OPEN_PERIOD} frames, not {period}")
    draw = Draws(jax.random.bits(key, (), jnp.uint32), count=80)
    frame = jnp.asarray(start, jnp.int32) + jnp.arange(frames, dtype=jnp.int32)
    waves = _Waves(draw, frame, period or _OPEN_PERIOD, jnp.asarray(speed, jnp.float32))
    sense = jnp.where(draw() < 0.5, -1.0, 1.0)
    pace = speed * draw(0.012, 0.045)
    if scene.kind == "room":
        x, z, heading = _around_room(scene, waves, pace, sense)
    else:
        x, z, heading = _along_way(scene, waves, pace, closed=period is not None)
    y = -draw(1.25, 1.65) + waves.slow(draw(0.02, 0.12)) + waves.tremor(0.003)
    # A camera that goes around a room in the positive sense has its middle on the right.
    offset = sense * jnp.pi / 2 if look == "aside" else draw(-0.35, 0.35)
    wander = draw(0.1, 0.4) if scene.kind == "room" else draw(0.2, 0.7)
    yaw = heading + offset + waves.slow(wander) + waves.tremor(0.003)
    pitch = draw(-0.2, 0.05) + waves.slow(draw(0.03, 0.15)) + waves.tremor(0.003)
    roll = waves.slow(0.05) + waves.tremor(0.002)
    world_from_cam = jnp.concatenate((_rotation(yaw, pitch, roll), jnp.stack((x, y, z), axis=-1)[..., None]), axis=-1)
    return geometry.invert(world_from_cam)


class _Waves:
    """Random sines of the frame number [T], each with a whole number of cycles in `period` frames."""

    def __init__(self, draw: Draws, frame: jax.Array, period: int, speed: jax.Array):
        self.draw, self.frame, self.period, self.speed = draw, frame, period, speed

    def cycles(self, length: jax.Array) -> jax.Array:
        """Number of cycles in a period, int32 [], of a wave about `length` frames long."""
        return jnp.clip(jnp.round(self.period / length), 1, self.period // 8).astype(jnp.int32)

    def angle(self, cycles: jax.Array | int) -> jax.Array:
        """Phase [T] in [0, 2π) of a wave with this many cycles in a period."""
        # At most 2¹⁵ · 2¹², which int32 holds.
        return 2 * jnp.pi / self.period * (self.frame % self.period * cycles % self.period).astype(jnp.float32)

    def slow(self, amplitude: float | jax.Array) -> jax.Array:
        """Wandering [T] within ± amplitude: two sines, 80 to 400 frames long at speed 1."""
        share = self.draw(0.6, 0.9)
        long = self._sine(self.draw(180.0, 400.0) / self.speed)
        return amplitude * (share * long + (1 - share) * self._sine(self.draw(80.0, 170.0) / self.speed))

    def tremor(self, amplitude: float) -> jax.Array:
        """Unsteadiness of a hand [T]: a sine 10 to 25 frames long whatever the speed."""
        return amplitude * self._sine(self.draw(10.0, 25.0))

    def _sine(self, length: jax.Array) -> jax.Array:
        return jnp.sin(self.angle(self.cycles(length)) + self.draw(0.0, 2 * jnp.pi))


def _around_room(
    scene: Scene, waves: _Waves, pace: jax.Array, sense: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x, z and heading, each [T], on the free ring of a room."""
    half_width, _, half_length = scene.size
    radius = sum(RING) / 2
    rounds = waves.cycles(jnp.pi * radius * (half_width + half_length) / pace)
    angle = waves.draw(0.0, 2 * jnp.pi) + sense * waves.angle(rounds)
    # Walking unevenly: up to 0.3 rad ahead or behind.
    angle += waves.slow(waves.draw(0.0, 0.3))
    r = radius + waves.slow((RING[1] - RING[0]) / 2)
    heading = jnp.arctan2(sense * half_width * jnp.cos(angle), -sense * half_length * jnp.sin(angle))
    return half_width * r * jnp.sin(angle), half_length * r * jnp.cos(angle), heading


def _along_way(scene: Scene, waves: _Waves, pace: jax.Array, closed: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x, z and heading, each [T], along an endless scene."""
    if closed:
        z = pace * waves.period / (2 * jnp.pi) * (1 - jnp.cos(waves.angle(1)))
    else:
        # Walking unevenly: up to 5 frames ahead or behind.
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
