"""Procedural materials: tiles, patches, dots and noise at several scales, fixed to surface coordinates.

Every detail is hashed from an integer position on the surface, so nothing repeats and nothing is stored. Details smaller than a
pixel fade to their mean, so that distant surfaces do not flicker.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from .hashing import Draws, derive, fraction, lattice

_OCTAVES = ((0.9, 0.30), (0.31, 0.26), (0.11, 0.24), (0.043, 0.20))
"""Wavelength in units at grain 1, and share of the contrast, of each octave of noise."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Material:
    """The look of surfaces; every field has an additional leading axis per surface or pixel."""

    seed: jax.Array
    """uint32 [...]"""
    colours: jax.Array
    """[..., 3, 3]: two colours of the tiles, and a third for patches, dots and joints; linear RGB in [0, 1]."""
    tile: jax.Array
    """[..., 2]: width and height of a tile."""
    stagger: jax.Array
    """[...]: shift of each row of tiles, in tiles."""
    joint: jax.Array
    """[...]: width of the joints between tiles."""
    checker: jax.Array
    """[...]: 1 for tiles that alternate between two colours, 0 for tiles of random colours between the two."""
    contrast: jax.Array
    """[..., 4]: contrast of tiles, patches, dots and noise."""
    grain: jax.Array
    """[...]: factor on the size of noise, patches and dots."""


def material(seed: jax.Array, grain: jax.Array) -> Material:
    """Random materials [...] from seeds uint32 [...] and pattern sizes [...]."""
    draw = Draws(seed)
    hue, spread, saturation = draw(), draw(-0.5, 0.5), draw() ** 1.5
    colours = (
        _colour(hue, saturation * 0.7, draw(0.55, 1.0)),
        _colour(hue + 0.15 * spread, saturation * draw(), draw(0.35, 0.95)),
        _colour(hue + spread, draw(0.1, 0.9), draw(0.15, 0.95)),
    )
    height = grain * draw(0.1, 0.45)
    aspect = jnp.where(draw() < 0.4, 1.0, draw(1.5, 5.0))
    tiled = (draw() < 0.65).astype(jnp.float32)
    return Material(
        seed=derive(seed, 1),
        colours=jnp.stack(colours, axis=-2),
        tile=jnp.stack((height * aspect, height), axis=-1),
        stagger=jnp.where(draw() < 0.5, 0.0, draw(0.2, 0.5)),
        joint=tiled * height * draw(0.02, 0.14),
        checker=(draw() < 0.25).astype(jnp.float32),
        contrast=jnp.stack((tiled * draw(0.2, 1.0), draw(0.0, 0.9), draw(0.0, 0.9), draw(0.25, 0.7)), axis=-1),
        grain=jnp.broadcast_to(grain, seed.shape),
    )


def paint(surface: Material, face: jax.Array, position: jax.Array, footprint: jax.Array) -> jax.Array:
    """Colours [..., 3] at coordinates [..., 2] on the faces int [...]; footprint [...] is the width of a pixel on the surface."""
    surface = replace(surface, seed=surface.seed + face.astype(jnp.uint32) * jnp.uint32(0x632BE5AB))
    tiles, joints = _tiles(surface, position, footprint)
    noise, coarse = _noise(surface, position, footprint)
    dots = _dots(surface, position, footprint)
    a, b, c = surface.colours[..., 0, :], surface.colours[..., 1, :], surface.colours[..., 2, :]
    colour = _blend(a, b, tiles)
    edge = 0.04 + footprint / surface.grain
    patches = jax.nn.sigmoid((coarse - 0.09) / edge)
    colour = _blend(colour, c, surface.contrast[..., 1] * patches)
    colour = _blend(colour, 0.35 * c + 0.1, 0.8 * joints)
    colour = _blend(colour, 1 - c, surface.contrast[..., 2] * dots)
    return jnp.clip(colour * (1 + surface.contrast[..., 3] * noise)[..., None], 0, 1)


def _blend(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    return a + (b - a) * weight[..., None]


def _colour(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """RGB [..., 3] from hue, saturation and value, with three shifted cosines."""
    shifts = jnp.asarray((0.0, 1 / 3, 2 / 3))
    wheel = 0.5 + 0.5 * jnp.cos(2 * jnp.pi * (hue[..., None] - shifts))
    return value[..., None] * (1 - saturation[..., None] * (1 - wheel))


def _sharpness(size: jax.Array, footprint: jax.Array) -> jax.Array:
    """1 if a detail of this size is well above a pixel, 0 if it is well below."""
    return jnp.clip(1.6 - 1.2 * footprint / size, 0, 1)


def _tiles(surface: Material, position: jax.Array, footprint: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mixture of the two tile colours, and coverage by joints, both [...] in [0, 1]."""
    size = surface.tile
    along = position / size
    row = jnp.floor(along[..., 1])
    across = along[..., 0] + surface.stagger * row
    column = jnp.floor(across)
    row_number, column_number = row.astype(jnp.int32), column.astype(jnp.int32)
    random = fraction(lattice(surface.seed, column_number, row_number))
    parity = ((row_number + column_number) & 1).astype(jnp.float32)
    mixture = 0.5 + (random + surface.checker * (parity - random) - 0.5) * surface.contrast[..., 0] * _sharpness(
        size[..., 1], footprint
    )
    inside = jnp.stack((across - column, along[..., 1] - row), axis=-1)
    edge = jnp.min(jnp.minimum(inside, 1 - inside) * size, axis=-1)
    joints = jnp.clip((0.5 * surface.joint - edge) / jnp.maximum(footprint, 1e-6) + 0.5, 0, 1)
    return mixture, joints * _sharpness(size[..., 1], footprint)


def _noise(surface: Material, position: jax.Array, footprint: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Value noise in about [−0.5, 0.5]: all octaves, and only the two coarse ones, both [...]."""
    total = coarse = jnp.zeros(position.shape[:-1], position.dtype)
    for number, (wavelength, share) in enumerate(_OCTAVES):
        size = wavelength * surface.grain
        # A rotation by 37° per octave, so that the lattices do not align.
        position = jnp.stack(
            (0.8 * position[..., 0] - 0.6 * position[..., 1], 0.6 * position[..., 0] + 0.8 * position[..., 1]), axis=-1
        )
        value = value_noise(surface.seed + jnp.uint32(number * 7919), position / size[..., None])
        total += share * _sharpness(size, footprint) * value
        if number == 1:
            coarse = total
    return 2.2 * total, coarse


def value_noise(seed: jax.Array, position: jax.Array) -> jax.Array:
    """Smooth noise in [−0.5, 0.5], random on the integer lattice of positions [..., 2]."""
    corner = jnp.floor(position)
    inside = position - corner
    x, y = (inside[..., i] * inside[..., i] * (3 - 2 * inside[..., i]) for i in range(2))
    column, row = corner[..., 0].astype(jnp.int32), corner[..., 1].astype(jnp.int32)
    top_left, top_right = fraction(lattice(seed, column, row)), fraction(lattice(seed, column + 1, row))
    bottom_left, bottom_right = fraction(lattice(seed, column, row + 1)), fraction(lattice(seed, column + 1, row + 1))
    top = top_left + (top_right - top_left) * x
    bottom = bottom_left + (bottom_right - bottom_left) * x
    return top + (bottom - top) * y - 0.5


def _dots(surface: Material, position: jax.Array, footprint: jax.Array) -> jax.Array:
    """Coverage [...] by discs of random position and size, at most one per grid square."""
    pitch = 0.22 * surface.grain
    cell = jnp.floor(position / pitch[..., None])
    bits = lattice(
        surface.seed ^ jnp.uint32(0xA511E9B3), cell[..., 0].astype(jnp.int32), cell[..., 1].astype(jnp.int32)
    )
    x, y, size = ((bits >> shift & 0x3FF).astype(jnp.float32) / 1023 for shift in (0, 10, 20))
    radius = jnp.maximum(0.38 * size - 0.1, 0) * pitch
    centre = cell * pitch[..., None] + (0.3 + 0.4 * jnp.stack((x, y), axis=-1)) * pitch[..., None]
    offset = position - centre
    distance = jnp.sqrt(jnp.sum(offset * offset, axis=-1))
    inside = jnp.clip((radius - distance) / jnp.maximum(footprint, 1e-6) + 0.5, 0, 1)
    return inside * (radius > 0) * _sharpness(pitch, footprint)
