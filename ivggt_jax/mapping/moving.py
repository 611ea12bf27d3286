"""What moves, told without training: pixels that other views, looking along the cameras, contradict.

A point that another view sees through was not there when that view was taken; one that looks other there is another point.
What a view cannot see, because something stands before it, says nothing. How large a difference must be follows from the
spread of all differences of the two views, most of which are of the still scene.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ivggt_jax import geometry

BEYOND = 3.0
"""Differences of depth count from so many standard deviations on,"""
UNLIKE = 4.0
"""differences of colour from so many."""
LEAST_SPREAD = 0.02
"""Of logarithms of depth, and of colours in [0,1]: rounding and sampling make so much."""
LEAST_VIEWS = 2
"""Fewer views than that do not tell."""
SAMPLE = 2000
"""Pixels, about, that medians are taken of: sorting all of them would take most of the time."""
MOST = 0.5
"""A view that contradicts more than this share of what it sees has another camera or unit than it says, and tells nothing."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class View:
    """A frame with its depth and camera, or several, stacked. All depths and cameras are in one unit and world."""

    image: jax.Array
    """[H,W,3] in [0,1]"""
    depth: jax.Array
    """[H,W], 0 where unknown."""
    cam_from_world: jax.Array
    """[3,4]"""
    intrinsics: jax.Array
    """[3,3] in pixels."""


def motion_from_views(frame: View, others: View) -> jax.Array:
    """How much speaks for each pixel of a frame moving, [H,W] in [0,1]: the share of the views [K,…] of it that contradict.

    Of those that see its place; 0 where fewer than `LEAST_VIEWS` do, or its depth is unknown. The mean over 3×3 pixels.
    """
    points = geometry.unproject(frame.depth, frame.cam_from_world, frame.intrinsics)
    seen, contradicted = jax.vmap(lambda other: _judge(frame, points, other))(others)
    believed = jnp.sum(contradicted, axis=(1, 2)) <= MOST * jnp.sum(seen, axis=(1, 2))
    seen, contradicted = (x & believed[:, None, None] for x in (seen, contradicted))
    count = jnp.sum(seen, axis=0)
    share = jnp.sum(contradicted, axis=0) / jnp.maximum(count, 1)
    return jnp.mean(_neighbours(jnp.where(count >= LEAST_VIEWS, share, 0)), axis=0)


def _judge(frame: View, points: jax.Array, other: View) -> tuple[jax.Array, jax.Array]:
    """Which pixels' points [H,W,3] another view sees the place of, and which of these it contradicts, bool [H,W] each."""
    height, width = frame.depth.shape
    pixels, depth = geometry.project(points.reshape(-1, 3), other.cam_from_world, other.intrinsics)
    pixels, depth = pixels.reshape(height, width, 2), depth.reshape(height, width)
    column, row = jnp.moveaxis(jnp.round(pixels), -1, 0)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 0) & (frame.depth > 0)
    column, row = (jnp.where(inside, x, 0).astype(jnp.int32) for x in (column, row))

    # Between neighbours anything may be: what lies within their range is no difference.
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
    """Median and robust standard deviation of the values [H,W] that are not NaN; 0 and the least where there are none."""
    values = _sample(values)
    middle = jnp.nan_to_num(jnp.nanmedian(values))
    deviation = 1.4826 * jnp.nan_to_num(jnp.nanmedian(jnp.abs(values - middle)))
    return middle, jnp.maximum(deviation, LEAST_SPREAD)


def _sample(values: jax.Array) -> jax.Array:
    """About `SAMPLE` of values [H,W,…], evenly spaced."""
    stride = max(1, int((values.shape[0] * values.shape[1] / SAMPLE) ** 0.5))
    return values[::stride, ::stride]


def _neighbours(values: jax.Array) -> jax.Array:
    """The 3×3 pixels about every pixel of values [H,W,…], as [9,H,W,…]; at the border the last ones again."""
    height, width = values.shape[:2]
    padded = jnp.pad(values, ((1, 1), (1, 1), *((0, 0),) * (values.ndim - 2)), mode="edge")
    return jnp.stack([padded[row : row + height, column : column + width] for row in range(3) for column in range(3)])
