"""The sides of an endless street or corridor: cells along z, each hashed from its number.

Any cell exists without the ones before it. Each side of a cell has a building or wall and, in front of it, an object with another
on top.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from .hashing import Draws, derive
from .primitives import BALL, BOX, CYLINDER, Primitives, concatenate


def centre_line(bends: jax.Array, z: jax.Array) -> jax.Array:
    """x [...] of the way's centre at z [...]: sines of amplitude, wavelength and phase [2, 3]."""
    amplitude, wavelength, phase = bends.T
    return jnp.sum(amplitude * jnp.sin(2 * jnp.pi * z[..., None] / wavelength + phase), axis=-1)


def cells(seed: jax.Array, size: jax.Array, bends: jax.Array, numbers: jax.Array, street: bool) -> Primitives:
    """Primitives of the cells with numbers [C]; size [3] is the way's half width, its height, and the length of a cell."""
    ends = centre_line(bends, size[2] * jnp.stack((numbers, numbers + 1)).astype(jnp.float32))
    shift = ends[1] - ends[0]
    yaw, half_chord = jnp.arctan2(shift, size[2]), jnp.hypot(shift, size[2]) / 2
    middle = jnp.stack((ends.mean(0), jnp.zeros_like(yaw), size[2] * (numbers + 0.5)), axis=-1)
    parts = []
    for side in (-1, 1):
        side_seed = derive(seed, numbers, side)
        wall = (_building if street else _wall)(side_seed, size, half_chord, numbers)
        base, top = _thing_on_thing(derive(side_seed, 1), wall, street)
        # Both sides are built on the right; the left one is mirrored.
        parts += [replace(p, centre=p.centre * jnp.asarray((side, 1.0, 1.0))) for p in (wall, base, top)]
    return concatenate([replace(p, centre=middle + _turn(p.centre, yaw), yaw=p.yaw + yaw) for p in parts])


def _turn(local: jax.Array, yaw: jax.Array) -> jax.Array:
    """Rotate cell coordinates [C, 3], whose z axis is along the way, to the world's axes."""
    cosine, sine = jnp.cos(yaw), jnp.sin(yaw)
    x, y, z = local.T
    return jnp.stack((cosine * x + sine * z, y, cosine * z - sine * x), axis=-1)


def _building(seed: jax.Array, size: jax.Array, half_chord: jax.Array, _: jax.Array) -> Primitives:
    draw = Draws(seed)
    rise = size[1] * draw(0.25, 0.7)
    half = jnp.stack((jnp.full_like(rise, 3.0), rise, half_chord * draw(0.75, 0.97)), axis=-1)
    front = size[0] + draw(0.0, 1.2)
    return _box(seed, front, half, grain=draw(1.2, 5.0))


def _wall(seed: jax.Array, size: jax.Array, half_chord: jax.Array, numbers: jax.Array) -> Primitives:
    """Walls overlap to close the bends; neighbours differ in depth, so that their faces never coincide."""
    draw = Draws(seed)
    half = jnp.stack((jnp.full_like(half_chord, 0.5), 0 * half_chord + size[1] / 2 + 0.1, half_chord + 0.4), axis=-1)
    front = size[0] + 0.08 * (numbers & 1) + draw(0.0, 0.05)
    return _box(seed, front, half, grain=draw(0.6, 1.2))


def _box(seed: jax.Array, front: jax.Array, half: jax.Array, grain: jax.Array) -> Primitives:
    """Boxes [C] on the ground whose faces towards the way are at x = front."""
    zero = jnp.zeros_like(front)
    centre = jnp.stack((front + half[:, 0], -half[:, 1], zero), axis=-1)
    return Primitives(jnp.full(front.shape, BOX), centre, half, zero, derive(seed, 0), grain)


def _thing_on_thing(seed: jax.Array, wall: Primitives, street: bool) -> tuple[Primitives, Primitives]:
    """A crate or barrel with an object on top, or a post with a ball on top, in front of each wall [C]."""
    draw = Draws(seed)
    post = draw() < (0.5 if street else 0.2)
    rise = jnp.where(post, draw(0.9, 1.8 if street else 1.0), draw(0.2, 0.65))
    thin, wide = draw(0.06, 0.16), draw(*((0.25, 0.7) if street else (0.1, 0.2)))
    depth = jnp.where(post, thin, wide)
    breadth = jnp.where(post, thin, wide * draw(1.0, 2.5))
    gap = draw(0.1, 1.2) if street else 0.02
    x = wall.centre[:, 0] - wall.half[:, 0] - depth - gap
    z = wall.half[:, 2] * draw(-0.8, 0.8)
    base = Primitives(
        shape=jnp.where(post | (draw() < 0.25), CYLINDER, BOX),
        centre=jnp.stack((x, -rise, z), axis=-1),
        half=jnp.stack((depth, rise, breadth), axis=-1),
        yaw=jnp.zeros_like(x),
        seed=derive(seed, 0),
        grain=draw(0.3, 0.9),
    )
    radius = jnp.where(post, draw(0.15, 1.1 if street else 0.2), 0.8 * depth)
    top_rise = radius * draw(0.6, 1.2)
    top = Primitives(
        shape=jnp.where(post, BALL, jnp.asarray((BOX, CYLINDER, BALL))[jnp.floor(draw(0, 3)).astype(jnp.int32)]),
        centre=jnp.stack((x, -2 * rise - top_rise, z), axis=-1),
        half=jnp.stack((radius, top_rise, radius), axis=-1),
        yaw=draw(-0.4, 0.4),
        seed=derive(seed, 1),
        grain=draw(0.25, 0.8),
    )
    return base, top
