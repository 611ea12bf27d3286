"""A frame's brightness at several degrees of blur, for direct image alignment from coarse to fine.

Blurs are proportional to the image's size, so that alignment handles the same motions at any size. NaN means unknown: outside the
image, masked, or blurred mostly from such pixels. All levels have the image's size, so that one shape compiles once.
"""

import jax
import jax.numpy as jnp
import numpy as np

BLURS = (3.0, 1.5, 0.8)
"""Standard deviations of the levels' blurs, coarse to fine, in pixels of an image of `AREA` pixels."""
AREA = 84 * 112
KNOWN = 0.5
"""Share of the blur's weight that must fall on known pixels for the result to be known."""


def pyramid(image: jax.Array) -> jax.Array:
    """Brightness [level,H,W] in [0,1], coarse to fine, of an image [H,W,3], float32 in [0,1].

    Pixels that are not finite are unknown.
    """
    whole = jnp.mean(image, axis=-1)
    known = jnp.isfinite(whole)
    both = jnp.stack((jnp.where(known, whole, 0), known.astype(jnp.float32)))
    height, width = whole.shape
    down, across = _gaussians(height, (height * width / AREA) ** 0.5), _gaussians(width, (height * width / AREA) ** 0.5)
    blurred, weight = jnp.einsum("lih,chw,ljw->clij", down, both, across, precision="highest")
    return jnp.where(weight > KNOWN, blurred / jnp.maximum(weight, KNOWN), jnp.nan)


def sample(brightness: jax.Array, pixels: jax.Array) -> jax.Array:
    """Bilinear samples [...] of an image [H,W], at least 2×2, at pixels (u, v) [...,2]; NaN where unknown."""
    height, width = brightness.shape
    inside = jnp.all((pixels >= 0) & (pixels <= jnp.asarray((width - 1, height - 1))), axis=-1)
    place = jnp.where(inside[..., None], pixels, 0)
    corner = jnp.minimum(place.astype(jnp.int32), jnp.asarray((width - 2, height - 2)))
    u, v = jnp.moveaxis(place - corner, -1, 0)
    first = corner[..., 1] * width + corner[..., 0]
    flat = brightness.reshape(-1)
    corners = flat.at[first[..., None] + jnp.asarray((0, 1, width, width + 1))].get(mode="promise_in_bounds")
    weights = jnp.stack(((1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u), axis=-1)
    # Corners of weight zero are ignored, known or not: at the last row and column they are outside.
    return jnp.where(inside, jnp.sum(jnp.where(weights > 0, corners, 0) * weights, axis=-1), jnp.nan)


def gradient(brightness: jax.Array, pixels: jax.Array) -> jax.Array:
    """Gradient [...,2] of an image [H,W] along u and v, per pixel, at pixels [...,2]; NaN where unknown."""
    steps = jnp.asarray(((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)))
    around = sample(brightness, pixels[..., None, :] + steps)
    return (around[..., :2] - around[..., 2:]) / 2


def strongest(brightness: jax.Array, known: jax.Array, count: int) -> jax.Array:
    """Pixels (u, v) [N,2] of an image [H,W]: in each of about `count` cells the known pixel with the strongest gradient."""
    height, width = brightness.shape
    side = max(1, round((height * width / count) ** 0.5))
    rows, columns = height // side, width // side
    v, u = jnp.gradient(brightness)
    strength = jnp.where(known & jnp.isfinite(u + v), u**2 + v**2, -1)[: rows * side, : columns * side]
    cells = strength.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, side**2)
    best = jnp.argmax(cells, axis=-1)
    corner = jnp.stack(jnp.meshgrid(jnp.arange(columns) * side, jnp.arange(rows) * side), axis=-1)
    return (corner + jnp.stack((best % side, best // side), axis=-1)).reshape(-1, 2)


def sharpness(levels: jax.Array) -> jax.Array:
    """Float32 []: mean squared difference of neighbouring pixels at the finest of levels [level,H,W]; 0 if none is known.

    Neighbours are those of an image of `AREA` pixels: images of one view are about equally sharp at any size.
    """
    squares = jnp.concatenate([jnp.diff(levels[-1], axis=axis).reshape(-1) for axis in (0, 1)]) ** 2
    known = jnp.isfinite(squares)
    return jnp.sum(jnp.where(known, squares, 0)) / jnp.maximum(jnp.sum(known), 1) * (levels[-1].size / AREA)


def _gaussians(size: int, unit: float) -> np.ndarray:
    """Float32 [level,size,size]: the matrices that blur along an axis; `unit` scales `BLURS` to pixels."""
    apart = np.arange(size) - np.arange(size)[:, None]
    weights = np.exp(-0.5 * (apart / (unit * np.reshape(BLURS, (-1, 1, 1)))) ** 2)
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
