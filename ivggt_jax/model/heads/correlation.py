"""Correlation of point features with a pyramid of feature maps around the points, without the full correlation volume."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

POINTS_AT_ONCE = 512
"""Points whose patches are held at a time, at least those of one frame: 26 MB at the published radius and feature count."""


def pyramid(feature_maps: Float[Array, "B S h w features"], levels: int) -> list[jax.Array]:
    """The maps [...,h,w,C] and repeated 2×2 averages of them, `levels` in all; an odd last row or column is dropped.

    For small images a level can have no pixels; every point is then outside it.
    """
    maps = [feature_maps]
    while len(maps) < levels:
        maps.append(nnx.avg_pool(maps[-1], (2, 2), strides=(2, 2)))
    return maps


def correlate(
    features: Float[Array, "B S N features"], maps: list[jax.Array], coordinates: Float[Array, "B S N 2"], radius: int
) -> Float[Array, "B S N offsets"]:
    """Dot products of features [B,S,N,C] with each level's map around the points, divided by √C.

    maps: levels [B,S,h,w,C]; coordinates: [B,S,N,2], (x,y) in pixels of the first level, halved from level to level. Returns
    [B,S,N, levels·(2·radius+1)²], ordered by level, then by offset in x, then in y. Maps are interpolated bilinearly and are zero
    outside.
    """
    batch, frames, points, channels = features.shape

    def one_frame(frame: tuple[jax.Array, list[jax.Array], jax.Array]) -> jax.Array:
        features, maps, coordinates = frame
        levels = [_correlate_level(features, level, coordinates / 2**i, radius) for i, level in enumerate(maps)]
        return jnp.concatenate(levels, axis=-1)

    flat = jax.tree.map(lambda x: x.reshape(batch * frames, *x.shape[2:]), (features, maps, coordinates))
    found = lax.map(one_frame, flat, batch_size=max(1, POINTS_AT_ONCE // points))
    return found.reshape(batch, frames, points, -1) / math.sqrt(channels)


def sample(table: jax.Array, points: jax.Array) -> jax.Array:
    """Linear interpolation of table [*axes,C] at points [...,axis], with coordinates in the order of the axes → [...,C].

    Points outside get the value at the border.
    """
    at = jnp.moveaxis(points, -1, 0)
    return jax.vmap(lambda channel: map_coordinates(channel, list(at), order=1, mode="nearest"), -1, -1)(table)


def _correlate_level(features: jax.Array, feature_map: jax.Array, coordinates: jax.Array, radius: int) -> jax.Array:
    """One frame and one level: features [N,C], map [h,w,C], coordinates [N,2] → [N, (2·radius+1)²].

    All offsets are whole pixels and share one fraction, so it suffices to correlate with the (2·radius+2)² pixels around the
    point and blend.
    """
    if 0 in feature_map.shape:
        return jnp.zeros((len(features), (2 * radius + 1) ** 2), features.dtype)
    height, width, _ = feature_map.shape
    columns, column_inside, x_fraction = _neighbours(coordinates[:, 0], width, radius)
    rows, row_inside, y_fraction = _neighbours(coordinates[:, 1], height, radius)
    patches = feature_map[rows[:, None, :], columns[:, :, None]]
    products = jnp.einsum("nxyc,nc->nxy", patches, features)
    products = jnp.where(column_inside[:, :, None] & row_inside[:, None, :], products, 0)
    x_fraction, y_fraction = x_fraction[:, None, None], y_fraction[:, None, None]
    products = products[:, :-1] * (1 - x_fraction) + products[:, 1:] * x_fraction
    products = products[:, :, :-1] * (1 - y_fraction) + products[:, :, 1:] * y_fraction
    return products.reshape(len(features), -1)


def _neighbours(positions: jax.Array, size: int, radius: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Along one axis: the 2·radius+2 pixels around each position [N], a mask of those inside, and the fraction [N].

    An axis of one pixel yields that pixel everywhere, as in the published network, where aligned corners leave such an axis no
    length.
    """
    if size == 1:
        positions = jnp.zeros_like(positions)
    # Clipping changes nothing, since all is zero far outside, and it keeps the whole part within the integer range.
    positions = jnp.clip(positions, -radius - 2, size + radius + 1)
    whole = jnp.floor(positions)
    pixels = whole.astype(jnp.int32)[:, None] + jnp.arange(-radius, radius + 2)
    inside = (pixels >= 0) & (pixels < size) | (size == 1)
    return jnp.clip(pixels, 0, size - 1), inside, positions - whole
