"""Random sines of the frame number, from which paths and light are composed.

Phases are computed in integers, so that they stay exact for large frame numbers.
"""

import jax
import jax.numpy as jnp

from .hashing import Draws


class Waves:
    """Random sines of the frame number [T], each with a whole number of cycles in `period` frames."""

    def __init__(self, draw: Draws, frame: jax.Array, period: int, speed: jax.Array):
        self.draw, self.frame, self.period, self.speed = draw, frame, period, speed

    def cycles(self, length: jax.Array) -> jax.Array:
        """Number of cycles in a period, int32 [], of a wave about `length` frames long."""
        return jnp.clip(jnp.round(self.period / length), 1, self.period // 8).astype(jnp.int32)

    def angle(self, cycles: jax.Array | int) -> jax.Array:
        """Phase [T] in [0, 2π) of a wave with this many cycles in a period."""
        # At most 2¹⁵ · 2¹², which fits int32.
        return 2 * jnp.pi / self.period * (self.frame % self.period * cycles % self.period).astype(jnp.float32)

    def slow(self, amplitude: float | jax.Array) -> jax.Array:
        """Slow variation [T] within ± amplitude: two sines, 80 to 400 frames long at speed 1."""
        share = self.draw(0.6, 0.9)
        long = self._sine(self.draw(180.0, 400.0) / self.speed)
        return amplitude * (share * long + (1 - share) * self._sine(self.draw(80.0, 170.0) / self.speed))

    def tremor(self, amplitude: float) -> jax.Array:
        """Hand tremor [T]: a sine 10 to 25 frames long, whatever the speed."""
        return amplitude * self._sine(self.draw(10.0, 25.0))

    def _sine(self, length: jax.Array) -> jax.Array:
        return jnp.sin(self.angle(self.cycles(length)) + self.draw(0.0, 2 * jnp.pi))


class EndlessWaves(Waves):
    """Waves that do not repeat: each has an odd number of cycles in 2³² frames, where uint32 wraps around."""

    def __init__(self, draw: Draws, frame: jax.Array, speed: jax.Array):
        super().__init__(draw, frame, 1 << 32, speed)

    def cycles(self, length: jax.Array) -> jax.Array:
        """Number of cycles, uint32 [], of a wave about `length` frames long."""
        return jnp.round(float(self.period) / length).astype(jnp.uint32) | jnp.uint32(1)

    def angle(self, cycles: jax.Array | int) -> jax.Array:
        """Phase [T] in [0, 2π] of a wave with this many cycles."""
        return 2 * jnp.pi / self.period * (self.frame.astype(jnp.uint32) * cycles).astype(jnp.float32)
