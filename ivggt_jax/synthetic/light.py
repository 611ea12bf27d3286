"""Light that changes during a walk: a dimmed lamp, daylight, and a camera that adjusts exposure and white balance."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .hashing import Draws
from .scenes import Scene
from .waves import EndlessWaves

_SPEED = 0.5
"""Light changes over 160 to 800 frames, whatever the speed of the walk."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Light:
    """The light in each of T frames."""

    lighting: jax.Array
    """[T, 3]: the scene's `lighting`."""
    exposure: jax.Array
    """[T, 3]: the camera's factors on red, green and blue, before clipping to 1."""


def changing_light(key: jax.Array, scene: Scene, frames: int, *, start: int | jax.Array = 0) -> Light:
    """Light that varies around a scene's own: a pure function of key, scene and frame number, without a period.

    Ambient light varies by factors of up to 1.3 either way, direct light up to 1.6, exposure up to 1.25, and red and blue in
    opposite directions by up to 12 %. The lamp does not move.
    """
    draw = Draws(jax.random.bits(key, (), jnp.uint32))
    frame = jnp.asarray(start, jnp.int32) + jnp.arange(frames, dtype=jnp.int32)
    waves = EndlessWaves(draw, frame, jnp.asarray(_SPEED))
    ambient, direct = (jnp.exp(waves.slow(jnp.log(factor))) for factor in (1.3, 1.6))
    exposure, warmth = jnp.exp(waves.slow(jnp.log(1.25))), waves.slow(0.12)
    return Light(
        lighting=scene.lighting * jnp.stack((ambient, direct, jnp.ones(frames)), axis=-1),
        exposure=exposure[:, None] * jnp.stack((1 + warmth, jnp.ones(frames), 1 - warmth), axis=-1),
    )
