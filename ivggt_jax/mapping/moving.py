"""Detects moving pixels without training: those that other views contradict, given depth and cameras.

A point that another view sees through was not there when that view was taken; one that looks different there is another point. A
view that cannot see the point, because something is in front of it, says nothing. The thresholds follow from the spread of all
differences between the two views, most of which are of the static scene.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ivggt_jax import geometry

BEYOND = 3.0
"""Standard deviations from which a difference in depth counts."""
UNLIKE = 4.0
"""Standard deviations from which a difference in colour counts."""
LEAST_SPREAD = 0.02
"""Least standard deviation of log depths, and of colours in [0,1]: rounding and sampling cause this much."""
LEAST_VIEWS = 2
"""Views needed to judge a pixel."""
SAMPLE = 2000
"""About how many pixels medians are taken of; sorting all of them would take most of the time."""
MOST = 0.5
"""A view that contradicts more than this share of what it sees is ignored: its camera or unit must be wrong."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class View:
    """A frame, or several stacked, with depth and camera. All depths and cameras share one unit and world."""

    image: jax.Array
    """[H,W,3] in [0,1]"""
    depth: jax.Array
    """[H,W], 0 where unknown."""
    cam_from_world: jax.Array
    """[3,4]"""
    intrinsics: jax.Array
    """[3,3] in pixels."""


def motion_from_views(frame: View, others: View) -> jax.Array:
    """Evidence that each pixel moves, [H,W] in [0,1]: the share of contradicting views among the views [K,…] that see its place.

    0 where fewer than `LEAST_VIEWS` views see the place or the depth is unknown. Averaged over 3×3 pixels.
    """
    points = geometry.unproject(frame.depth, frame.cam_from_world, frame.intrinsics)
    seen, contradicted = jax.vmap(lambda other: _judge(frame, points, other))(others)
    believed = jnp.sum(contradicted, axis=(1, 2)) <= MOST * jnp.sum(seen, axis=(1, 2))
    seen, contradicted = (x & believed[:, None, None] for x in (seen, contradicted))
    count = jnp.sum(seen, axis=0)
    share = jnp.sum(contradicted, axis=0) / jnp.maximum(count, 1)
    return jnp.mean(_neighbours(jnp.where(count >= LEAST_VIEWS, share, 0)), axis=0)


def _judge(frame: View, points: jax.Array, other: View) -> tuple[jax.Array, jax.Array]:
    """Of which pixels another view sees the place of the point [H,W,3], and which of these it contradicts; bool [H,W] each."""
    height, width = frame.depth.shape
    pixels, depth = geometry.project(points.reshape(-1, 3), other.cam_from_world, other.intrinsics)
    pixels, depth = pixels.reshape(height, width, 2), depth.reshape(height, width)
    column, row = jnp.moveaxis(jnp.round(pixels), -1, 0)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 0) & (frame.depth > 0)
    column, row = (jnp.where(inside, x, 0).astype(jnp.int32) for x in (column, row))

    # Between neighbouring pixels any value is possible, so a value within their range counts as no difference.
    logarithm = jnp.log(jnp.where(other.depth > 0, other.depth, jnp.nan))
    nearest, farthest = (pick(_neighbours(logarithm), axis=0)[row, column] for pick in (jnp.min, jnp.max))
    depth = jnp.log(jnp.where(inside, depth, 1))
    middle, spread = _spread(jnp.where(inside, logarithm[row, column] - depth, jnp.nan))
    inside = inside & jnp.isfinite(nearest) & jnp.isfinite(farthest)
    through = nearest - depth - middle > BEYOND * spread
    hidden = farthest - depth - middle < -BEYOND * spread

    darkest, brightest = (pick(_neighbours(other.image), axis=0)[row, column] for pick in (jnp.min, jnp.max))
    shift = jnp.where(inside[..., None], other.image[row, column] - frame.image, jnp.nan)
    shift = jnp.nanmedian(_sample(shift), axis=(0, 1))
    colour = frame.image + jnp.nan_to_num(shift)
    outside = jnp.mean(jax.nn.relu(colour - brightest) + jax.nn.relu(darkest - colour), axis=-1)
    level, noise = _spread(jnp.where(inside & ~through & ~hidden, outside, jnp.nan))
    seen = inside & ~hidden
    return seen, seen & (through | (outside - level > UNLIKE * noise))


def _spread(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Median and robust standard deviation of the values [H,W] that are not NaN; 0 and `LEAST_SPREAD` if there are none."""
    values = _sample(values)
    middle = jnp.nan_to_num(jnp.nanmedian(values))
    deviation = 1.4826 * jnp.nan_to_num(jnp.nanmedian(jnp.abs(values - middle)))
    return middle, jnp.maximum(deviation, LEAST_SPREAD)


def _sample(values: jax.Array) -> jax.Array:
    """About `SAMPLE` of the values [H,W,…], evenly spaced."""
    stride = max(1, int((values.shape[0] * values.shape[1] / SAMPLE) ** 0.5))
    return values[::stride, ::stride]


def _neighbours(values: jax.Array) -> jax.Array:
    """The 3×3 neighbourhood of every pixel of values [H,W,…], as [9,H,W,…]; the border is repeated outside."""
    height, width = values.shape[:2]
    padded = jnp.pad(values, ((1, 1), (1, 1), *((0, 0),) * (values.ndim - 2)), mode="edge")
    return jnp.stack([padded[row : row + height, column : column + width] for row in range(3) for column in range(3)])
