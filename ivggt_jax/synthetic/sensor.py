"""A simulated depth sensor for rendered scenes: noise, holes, a smallest and a largest depth, and frames without depth."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

_BLOB = 9
"""Distance in pixels between the centres of holes."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sensor:
    """Properties of a sensor; each is a float32 [] or a number."""

    noise: jax.Array | float
    """Standard deviation of a pixel's error, as a share of its depth."""
    holes: jax.Array | float
    """Share of pixels in holes, which are larger than a pixel and differ from frame to frame."""
    near: jax.Array | float
    """Smallest depth that it measures, in metres."""
    far: jax.Array | float
    """Largest depth that it measures, in metres."""
    frames: jax.Array | float
    """Share of frames with depth."""
    first: jax.Array | float
    """Probability that the first frame has depth."""


def random_sensor(key: jax.Array) -> Sensor:
    """A random sensor for training: of twenty clips three have no depth, and as many have it in a few frames only."""
    keys = jax.random.split(key, 6)
    kind = jax.random.uniform(keys[0])
    some = jnp.where(kind < 0.3, jax.random.uniform(keys[1], maxval=0.3), jax.random.uniform(keys[1], minval=0.5))
    return Sensor(
        noise=jax.random.uniform(keys[2], maxval=0.03),
        holes=jax.random.uniform(keys[3], maxval=0.6),
        near=jax.random.uniform(keys[4], maxval=0.5),
        far=jax.random.uniform(keys[5], minval=2.5, maxval=8.0),
        frames=jnp.where(kind < 0.15, 0.0, some),
        first=jnp.where(kind < 0.15, 0.0, 0.85),
    )


def measure(key: jax.Array, sensor: Sensor, depth: jax.Array) -> jax.Array:
    """Simulated measurement of depth [T,H,W], 0 where there is none: a pure function of the key."""
    noise_key, hole_key, frame_key, first_key = jax.random.split(key, 4)
    frames, height, width = depth.shape
    rows, columns = -(-height // _BLOB) + 1, -(-width // _BLOB) + 1
    coarse = jax.random.uniform(hole_key, (frames, rows, columns))
    field = jax.image.resize(coarse, depth.shape, "linear")
    # Quantiles of the field itself, because its distribution after interpolation is not simple.
    level = jnp.quantile(field.reshape(frames, -1), sensor.holes, axis=1)[:, None, None]
    given = jax.random.uniform(frame_key, (frames,)) < sensor.frames
    given = given.at[0].set(jax.random.uniform(first_key) < sensor.first)
    measured = depth * (1 + sensor.noise * jax.random.normal(noise_key, depth.shape))
    seen = (measured >= sensor.near) & (measured <= sensor.far) & (measured > 0) & (field >= level)
    return jnp.where(seen & given[:, None, None], measured, 0)
