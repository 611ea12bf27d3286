"""A corridor of equal doors: the same wall with the same door on both sides, the same floor and ceiling, in every cell."""

import jax
import jax.numpy as jnp

from .hashing import derive
from .primitives import BALL, BOX, Primitives


def door_cells(seed: jax.Array, size: jax.Array, numbers: jax.Array) -> Primitives:
    """Primitives of the cells with numbers [C]; size [3] is the corridor's half width, its height, and the length of a cell.

    Each side has a wall, a door's frame and leaf, and a handle; the sides mirror each other. Then come floor and ceiling.
    """
    wall, height, length = size
    # For the wall, whose face is at x = 0 here, the frame, the leaf and the handle.
    half = jnp.asarray(((0.5, 0.0, 0.0), (0.03, 1.08, 0.56), (0.05, 1.0, 0.46), (0.06, 0.06, 0.06)))
    centre = jnp.asarray(((0.5, 0.0, 0.0), (0.0, -1.08, 0.0), (0.0, -1.0, 0.0), (-0.1, -1.0, 0.36)))
    half = half.at[0, 1].set(height / 2 + 0.1).at[0, 2].set(length / 2)
    centre = centre.at[0, 1].set(-height / 2).at[:, 0].add(wall)
    # A half thickness of exactly 1 puts the floor's face exactly at 0.
    flat = jnp.stack((wall + 1, jnp.ones_like(wall), length / 2))
    level = jnp.asarray(((0.0, 1.0, 0.0), (0.0, -1.0, 0.0))).at[1, 1].add(-height)
    centre = jnp.concatenate((centre * jnp.asarray((-1.0, 1.0, 1.0)), centre, level))
    along = jnp.asarray((0.0, 0.0, 1.0)) * (length * (numbers + 0.5))[:, None, None]

    def each(values: jax.Array) -> jax.Array:
        """Values [6, ...] of a side's parts, floor and ceiling, for both sides of all cells [C * 10, ...]."""
        return jnp.tile(values[jnp.asarray((0, 1, 2, 3, 0, 1, 2, 3, 4, 5))], (len(numbers),) + (1,) * (values.ndim - 1))

    return Primitives(
        shape=each(jnp.asarray((BOX, BOX, BOX, BALL, BOX, BOX))),
        centre=(centre + along).reshape(-1, 3),
        half=each(jnp.concatenate((half, flat[None], flat[None]))),
        yaw=jnp.zeros(10 * len(numbers)),
        seed=each(derive(seed, jnp.arange(6))),
        grain=each(jnp.asarray((0.9, 0.5, 0.6, 0.2, 1.0, 1.4))),
    )
