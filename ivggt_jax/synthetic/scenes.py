"""Scenes: a furnished room, and three endless ones: a street, a corridor and a corridor of equal doors.

World axes: y points down, the floor is y = 0, lengths are in metres.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from .doors import door_cells
from .furniture import LAMP_DROP, furnish
from .hashing import Draws, derive
from .primitives import BOX, Primitives, concatenate
from .wayside import cells

Kind = Literal["room", "street", "corridor", "doors"]

_CELLS = 8
"""Cells of an endless scene that rays are cast against."""
_FAR_IN_CELLS = 3.5
_CELL_MARGIN = 4.0
"""Distance in metres by which shadows and overlapping walls extend beyond their cell."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scene:
    """A random scene: a pytree of arrays of fixed size, so that scenes of one kind can be batched with vmap."""

    kind: Kind = field(metadata={"static": True})
    seed: jax.Array
    """uint32 []"""
    size: jax.Array
    """[3]: a room's half width, height and half length; for endless scenes the half width, height and length of a cell."""
    bends: jax.Array
    """[2, 3]: amplitude, wavelength and phase of the waves of an endless scene's centre line x(z); zero in a room."""
    fixed: Primitives
    """Everything in a room; ground and ceiling of a street and a corridor; nothing among equal doors."""
    light: jax.Array
    """[4]: a lamp at (x, y, z, 1), or light from the direction (x, y, z, 0)."""
    lighting: jax.Array
    """[3]: ambient light, direct light, and the share of direct light that a shadow removes."""
    haze: jax.Array
    """[3]: colour of the distance."""
    far: jax.Array
    """[]: distance in metres at which everything has faded into the haze; anything farther counts as a miss."""


def make_scene(key: jax.Array, kind: Kind = "room") -> Scene:
    """A random scene: a pure function of its key. Raises ValueError for an unknown kind."""
    if kind not in get_args(Kind):
        raise ValueError(f"scene kind must be one of {', '.join(get_args(Kind))}, not {kind!r}")
    seed = jax.random.bits(key, (), jnp.uint32)
    return _room(seed) if kind == "room" else _endless(seed, kind)


def visible_primitives(scene: Scene, origin: jax.Array, directions: jax.Array) -> Primitives:
    """All primitives that rays from origin [3] along directions [..., 3] can meet before the scene fades.

    Complete for rays within 55° of an axis, that is, for every image with a diagonal field of view of up to 110°.
    """
    if scene.kind == "room":
        return scene.fixed
    along = directions[..., 2] / jnp.linalg.norm(directions, axis=-1)
    lowest = origin[2] + scene.far * jnp.min(along, initial=0) - _CELL_MARGIN
    first = jnp.floor(lowest / scene.size[2]).astype(jnp.int32)
    numbers = first + jnp.arange(_CELLS)
    if scene.kind == "doors":
        lining = door_cells(scene.seed, scene.size, numbers)
    else:
        lining = cells(scene.seed, scene.size, scene.bends, numbers, scene.kind == "street")
    return concatenate([scene.fixed, lining])


def _room(seed: jax.Array) -> Scene:
    draw = Draws(seed)
    size = jnp.stack((draw(2.4, 4.8), draw(2.5, 3.4), draw(2.4, 4.8)))
    lamp = (draw(-0.5, 0.5) * size[0], LAMP_DROP - size[1], draw(-0.5, 0.5) * size[2], jnp.ones(()))
    return Scene(
        kind="room",
        seed=seed,
        size=size,
        bends=jnp.zeros((2, 3)),
        fixed=furnish(derive(seed, 0), size),
        light=jnp.stack(lamp),
        lighting=jnp.stack((draw(0.5, 0.7), draw(0.5, 0.8), draw(0.5, 0.9))),
        haze=jnp.zeros(3),
        far=jnp.asarray(1e3),
    )


def _endless(seed: jax.Array, kind: Kind) -> Scene:
    street, draw = kind == "street", Draws(seed)
    # bounds of a cell's half width, height and length; then amplitude and wavelength of bends, for street and corridor
    bounds = ((4.5, 7.5), (8.0, 16.0), (10.0, 13.0)) if street else ((1.4, 2.1), (2.4, 3.2), (7.0, 8.0))
    if kind == "doors":
        bounds = (*bounds[:2], (4.0, 5.0))
    size = jnp.stack([draw(*bound) for bound in bounds])
    amplitude, wavelength = ((2.0, 5.0), (70.0, 140.0)) if street else ((0.7, 1.4), (35.0, 60.0))
    if kind == "doors":
        amplitude = (0.0, 0.0)
    bends = jnp.stack([jnp.stack((draw(*amplitude), draw(*wavelength), draw(0, 2 * jnp.pi))) for _ in range(2)])
    # The sun is across the street rather than along it, so that shadows stay near their own cell.
    across = jnp.where(draw() < 0.5, -1.0, 1.0) * draw(0.25, 0.7)
    sun = jnp.stack((across, jnp.asarray(-1.0), draw(-0.15, 0.15), jnp.zeros(())))
    red, green, blue = draw(0.6, 0.8), draw(0.0, 0.12), draw(0.0, 0.1)
    haze = jnp.stack((red, red + green, red + green + blue)) * (1.0 if street else 0.2)
    ambient, direct = ((0.5, 0.65), (0.35, 0.55)) if street else ((0.6, 0.8), (0.15, 0.35))
    return Scene(
        kind=kind,
        seed=seed,
        size=size,
        bends=bends,
        fixed=_slabs(derive(seed, 0), size, {"street": 1, "corridor": 2, "doors": 0}[kind]),
        light=sun / jnp.linalg.norm(sun),
        lighting=jnp.stack((draw(*ambient), draw(*direct), draw(0.4, 0.8))),
        haze=haze,
        far=_FAR_IN_CELLS * size[2],
    )


def _slabs(seed: jax.Array, size: jax.Array, count: int) -> Primitives:
    """The ground, and a ceiling if there are two, as slabs that extend beyond all sight."""
    number = jnp.arange(count)
    zero = 0.0 * number
    return Primitives(
        shape=jnp.full(number.shape, BOX),
        # A half thickness of exactly 1 puts the ground's face exactly at 0.
        centre=jnp.stack((zero, jnp.where(number == 0, 1.0, -1.0 - size[1]), zero), axis=-1),
        half=jnp.broadcast_to(jnp.asarray((1e6, 1.0, 1e6)), (*number.shape, 3)),
        yaw=zero,
        seed=derive(seed, number),
        grain=1.0 + 0.4 * number,
    )
