"""What a poor camera and its file format do to rendered images: exposure, vignetting, blur, noise and JPEG.

They change colours only: cameras, depth and every other truth of a scene stay exact.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK = 8
_BLUR = 3
"""Radius of the blur's window in pixels."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Tables K.1 and K.2 of the JPEG standard (ITU-T T.81), for brightness and for colour.
_TABLES = np.array(
    [
        [
            16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
            14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
            18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
            49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
        ],
        [
            17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
            24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
            *[99] * 32,
        ],
    ],
    np.float32,
)  # fmt: skip


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Defects:
    """How a clip was taken; each is a float32 [] or a number.

    The defaults change colours by a few grey levels at most: a JPEG of quality 100 rounds them.
    """

    exposure: jax.Array | float = 1.0
    """Factor on all colours, which are cut off at 1."""
    drift: jax.Array | float = 1.0
    """The last frame's exposure divided by the first's."""
    warmth: jax.Array | float = 0.0
    """Red times 1 + warmth, blue times 1 − warmth."""
    vignetting: jax.Array | float = 0.0
    """Share of the light that is lost in the corners."""
    blur: jax.Array | float = 0.0
    """Standard deviation of a Gaussian blur, in pixels."""
    noise: jax.Array | float = 0.0
    """Standard deviation of a white pixel's error, on a scale to 1; that of darker pixels falls with the root of their light."""
    quality: jax.Array | float = 100.0
    """Quality of the JPEG, 1 to 100, without subsampling of colours."""


def random_defects(key: jax.Array, share: jax.Array | float = 1.0) -> Defects:
    """Random defects for training: `share` of the clips have any, and those have each of them with probability one half."""
    keys = iter(jax.random.split(key, 15))
    any_at_all = jax.random.uniform(next(keys)) < share

    def drawn(low: float, high: float, none: float) -> jax.Array:
        value = jax.random.uniform(next(keys), minval=low, maxval=high)
        return jnp.where(any_at_all & (jax.random.uniform(next(keys)) < 0.5), value, none)

    return Defects(
        exposure=2.0 ** drawn(-1.5, 0.5, 0.0),
        drift=2.0 ** drawn(-1.0, 1.0, 0.0),
        warmth=drawn(-0.2, 0.2, 0.0),
        vignetting=drawn(0.0, 0.5, 0.0),
        blur=drawn(0.3, 1.2, 0.0),
        noise=drawn(0.0, 0.08, 0.0),
        quality=drawn(20.0, 95.0, 100.0),
    )


def taken(key: jax.Array, images: jax.Array, defects: Defects) -> jax.Array:
    """Images [T,H,W,3] in [0,1] as they come out of such a camera and file: a pure function of the key."""
    frames, height, width, _ = images.shape
    light = defects.exposure * jnp.asarray(defects.drift, jnp.float32) ** jnp.linspace(0, 1, frames)
    colour = jnp.stack([1 + jnp.asarray(defects.warmth), jnp.ones(()), 1 - jnp.asarray(defects.warmth)])
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    reaches = 1 - defects.vignetting * (x**2 + y**2) / 2
    images = jnp.clip(images * light[:, None, None, None] * colour * reaches[..., None], 0, 1)
    images = _blurred(images, jnp.asarray(defects.blur))
    error = jax.random.normal(key, images.shape) * defects.noise * jnp.sqrt(images + 0.01)
    return recompressed(jnp.clip(images + error, 0, 1), defects.quality)


def recompressed(images: jax.Array, quality: jax.Array | float) -> jax.Array:
    """Images [T,H,W,3] in [0,1] after JPEG compression with libjpeg's `quality`, without subsampling of colours."""
    frames, height, width, _ = images.shape
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    rim = ((0, 0), (0, rows * _BLOCK - height), (0, columns * _BLOCK - width), (0, 0))
    blocks = jnp.pad(jnp.round(_to_ycc(255 * images)) - 128, rim, mode="edge")
    blocks = blocks.reshape(frames, rows, _BLOCK, columns, _BLOCK, 3)
    quality = jnp.clip(jnp.asarray(quality, jnp.float32), 1, 100)
    percent = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    table = jnp.clip(jnp.floor((_TABLES * percent + 50) / 100), 1, 255).reshape(2, _BLOCK, _BLOCK)
    steps = table[jnp.asarray([0, 1, 1])].transpose(1, 2, 0)[:, None]  # [u,1,v,colour]
    cosines = jnp.asarray(_cosines())
    waves = jnp.einsum("ui,vj,tricjk->trucvk", cosines, cosines, blocks)
    waves = jnp.round(waves / steps) * steps
    blocks = jnp.einsum("ui,vj,trucvk->tricjk", cosines, cosines, waves)
    found = blocks.reshape(frames, rows * _BLOCK, columns * _BLOCK, 3)[:, :height, :width] + 128
    return jnp.clip(_from_ycc(found) / 255, 0, 1)


def _blurred(images: jax.Array, deviation: jax.Array) -> jax.Array:
    """Images [T,H,W,3] after a Gaussian blur; edges are repeated."""
    offsets = jnp.arange(-_BLUR, _BLUR + 1)
    weights = jnp.exp(-(offsets**2) / (2 * jnp.maximum(deviation, 1e-3) ** 2))
    weights = weights / jnp.sum(weights)
    for axis in (1, 2):
        rim = [(_BLUR, _BLUR) if side == axis else (0, 0) for side in range(4)]
        padded = jnp.pad(images, rim, mode="edge")
        size = images.shape[axis]
        images = sum(weight * jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i, weight in enumerate(weights))
    return images


def _to_ycc(rgb: jax.Array) -> jax.Array:
    """JFIF's brightness and two colour differences, around 128, from RGB [...,3] to 255."""
    y = rgb @ _LUMA
    return jnp.stack([y, 128 + (rgb[..., 2] - y) / 1.772, 128 + (rgb[..., 0] - y) / 1.402], axis=-1)


def _from_ycc(ycc: jax.Array) -> jax.Array:
    """The reverse of `_to_ycc`."""
    y, blue, red = ycc[..., 0], 1.772 * (ycc[..., 1] - 128), 1.402 * (ycc[..., 2] - 128)
    green = -(_LUMA[2] * blue + _LUMA[0] * red) / _LUMA[1]
    return jnp.stack([y + red, y + green, y + blue], axis=-1)


def _cosines() -> np.ndarray:
    """Orthonormal cosine transform of eight values, [frequency, place]."""
    place, frequency = np.arange(_BLOCK), np.arange(_BLOCK)[:, None]
    waves = np.cos((2 * place + 1) * frequency * np.pi / (2 * _BLOCK)) / 2
    waves[0] /= np.sqrt(2)
    return waves.astype(np.float32)
