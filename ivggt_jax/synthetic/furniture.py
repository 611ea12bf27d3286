"""Furniture of a room, which leaves free the ring in which a camera walks.

With r the distance from the room's centre in units of its half width and half length, table and carpet stay inside r = 0.3 or on
the floor; everything else stays outside r = 0.7 or near the ceiling.
"""

import jax
import jax.numpy as jnp

from .hashing import Draws, derive
from .primitives import BALL, BOX, CYLINDER, HOLLOW, Primitives, concatenate

RING = (0.42, 0.58)
"""Smallest and largest r of the camera's path."""
LAMP_DROP = 0.45
"""Distance in metres from the ceiling to the lamp, which is below everything else that hangs there."""


def furnish(seed: jax.Array, size: jax.Array) -> Primitives:
    """All primitives of a room of size [3] (half width, height, half length) in metres."""
    cupboards = _cupboards(derive(seed, 1), size)
    table = _table(derive(seed, 2), size)
    places = jax.tree.map(lambda array: jnp.repeat(array, 3, axis=0), table)
    return concatenate(
        [
            _shell(derive(seed, 0), size),
            cupboards,
            _things_on(derive(seed, 3), cupboards, spread=0.7, largest=0.22),
            table,
            _things_on(derive(seed, 4), places, spread=0.5, largest=0.16),
            _pictures(derive(seed, 5), size),
            _ceiling(derive(seed, 6), size),
        ]
    )


def _shell(seed: jax.Array, size: jax.Array) -> Primitives:
    """Walls, floor and ceiling as one hollow box, and a carpet."""
    draw = Draws(seed)
    zero, flat = jnp.zeros(()), jnp.asarray(0.01)
    carpet = jnp.stack((draw(0.3, 0.6) * size[0], flat, draw(0.3, 0.6) * size[2]))
    return Primitives(
        shape=jnp.asarray((HOLLOW, BOX)),
        centre=jnp.stack((jnp.stack((zero, -size[1] / 2, zero)), jnp.stack((zero, -flat, zero)))),
        half=jnp.stack((jnp.stack((size[0], size[1] / 2, size[2])), carpet)),
        yaw=jnp.stack((zero, draw(-0.3, 0.3))),
        seed=derive(seed, jnp.arange(2)),
        grain=jnp.stack((draw(0.8, 1.5), draw(0.4, 1.0))),
    )


def _at_walls(number: jax.Array, along: jax.Array, half: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Centres x and z [J, 2], and half extents [J, 3], of boxes that stand against the walls.

    Box number 0…7 [J] is at wall number mod 4 (−x, +x, −z, +z), the first four in one half of the wall, the others in the other
    half; along [J] in [0, 1] goes from the wall's middle to its corner. half [J, 3] is depth, height, width.
    """
    wall = number % 4
    sideways = wall < 2
    along = jnp.where(number < 4, -along, along)
    sign = jnp.where(wall % 2 == 0, -1.0, 1.0)
    depth, rise, breadth = half.T
    x = jnp.where(sideways, sign * (size[0] - depth), along * size[0])
    z = jnp.where(sideways, along * size[2], sign * (size[2] - depth))
    turned = jnp.stack((jnp.where(sideways, depth, breadth), rise, jnp.where(sideways, breadth, depth)), axis=-1)
    return jnp.stack((x, z), axis=-1), turned


def _cupboards(seed: jax.Array, size: jax.Array) -> Primitives:
    """Two pieces of furniture at each wall."""
    number = jnp.arange(8)
    seed = derive(seed, number)
    draw = Draws(seed)
    sideways = number % 4 < 2
    depth = draw(0.06, 0.14) * jnp.where(sideways, size[0], size[2])
    breadth = draw(0.08, 0.2) * jnp.where(sideways, size[2], size[0])
    rise = size[1] / 2 * jnp.where(draw() < 0.35, draw(0.5, 0.8), draw(0.15, 0.4))
    place, half = _at_walls(number, draw(0.25, 0.7), jnp.stack((depth, rise, breadth), axis=-1), size)
    return Primitives(
        shape=jnp.where(draw() < 0.75, BOX, CYLINDER),
        centre=jnp.stack((place[:, 0], -rise, place[:, 1]), axis=-1),
        half=half,
        yaw=jnp.zeros(8),
        seed=derive(seed, 0),
        grain=draw(0.35, 1.0),
    )


def _things_on(seed: jax.Array, support: Primitives, spread: float, largest: float) -> Primitives:
    """One small object on each support [J], not wider than it; `largest` is in metres, `spread` 1 reaches the edges."""
    seed = derive(seed, jnp.arange(support.shape.shape[0]))
    draw = Draws(seed)
    radius = jnp.minimum(draw(0.06, largest), 0.7 * jnp.minimum(support.half[:, 0], support.half[:, 2]))
    rise = radius * draw(0.7, 1.8)
    shape = jnp.asarray((BOX, CYLINDER, BALL))[jnp.floor(draw(0, 3)).astype(jnp.int32)]
    shift = spread * jnp.stack((draw(-1, 1), draw(-1, 1)), axis=-1)
    place = support.centre[:, ::2] + shift * (support.half[:, ::2] - radius[:, None])
    return Primitives(
        shape=shape,
        centre=jnp.stack((place[:, 0], support.centre[:, 1] - support.half[:, 1] - rise, place[:, 1]), axis=-1),
        half=jnp.stack((radius, rise, radius * jnp.where(shape == BOX, draw(0.6, 1.0), 1.0)), axis=-1),
        yaw=draw(-1.5, 1.5),
        seed=derive(seed, 0),
        grain=draw(0.2, 0.6),
    )


def _table(seed: jax.Array, size: jax.Array) -> Primitives:
    """The table in the middle of the room; its half diagonal is at most 0.28 of the shorter half side."""
    seed = derive(seed, jnp.arange(1))
    draw = Draws(seed)
    shorter = jnp.minimum(size[0], size[2])
    rise = draw(0.17, 0.45)
    return Primitives(
        shape=jnp.where(draw() < 0.7, BOX, CYLINDER),
        centre=jnp.stack((0 * rise, -rise, 0 * rise), axis=-1),
        half=jnp.stack((shorter * draw(0.1, 0.2), rise, shorter * draw(0.1, 0.2)), axis=-1),
        yaw=draw(-0.7, 0.7),
        seed=derive(seed, 0),
        grain=draw(0.3, 0.8),
    )


def _pictures(seed: jax.Array, size: jax.Array) -> Primitives:
    """Two pictures or boards on each wall."""
    number = jnp.arange(8)
    seed = derive(seed, number)
    draw = Draws(seed)
    half = jnp.stack((draw(0.015, 0.05), draw(0.2, 0.5), draw(0.2, 0.6)), axis=-1)
    place, half = _at_walls(number, draw(0.15, 0.8), half, size)
    return Primitives(
        shape=jnp.full(8, BOX),
        centre=jnp.stack((place[:, 0], -size[1] * draw(0.5, 0.7), place[:, 1]), axis=-1),
        half=half,
        yaw=jnp.zeros(8),
        seed=derive(seed, 0),
        grain=draw(0.25, 0.8),
    )


def _ceiling(seed: jax.Array, size: jax.Array) -> Primitives:
    """Two beams across the ceiling, with a globe between them."""
    seed = derive(seed, jnp.arange(3))
    draw = Draws(seed)
    globe = jnp.arange(3) == 2
    rise = jnp.where(globe, draw(0.08, 0.16), draw(0.05, 0.12))
    x = jnp.where(globe, draw(-0.5, 0.5) * size[0], 0.0)
    z = (jnp.asarray((-0.5, 0.5, 0.0)) + draw(-0.2, 0.2)) * size[2]
    return Primitives(
        shape=jnp.where(globe, BALL, BOX),
        centre=jnp.stack((x, rise - size[1], z), axis=-1),
        half=jnp.stack((jnp.where(globe, rise, size[0]), rise, rise), axis=-1),
        yaw=jnp.zeros(3),
        seed=derive(seed, 0),
        grain=draw(0.3, 0.8),
    )
