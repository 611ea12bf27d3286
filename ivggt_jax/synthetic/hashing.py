"""Random numbers as pure functions of integers, which determine positions and looks without any state.

JAX's own counter-based generators would do the same at ten times the cost per pixel.
"""

import jax
import jax.numpy as jnp

_ROW, _COLUMN = 0x9E3779B1, 0x85EBCA77


def mix(bits: jax.Array) -> jax.Array:
    """Scramble uint32 [...] so that every input bit flips half of the output bits (multiply and xor-shift)."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def derive(seed: jax.Array, *numbers: jax.Array | int) -> jax.Array:
    """A new seed uint32 [...] from a seed and any integers; all broadcast."""
    bits = jnp.asarray(seed).astype(jnp.uint32)
    for number in numbers:
        bits = mix(bits * jnp.uint32(_ROW) + jnp.asarray(number).astype(jnp.uint32) + jnp.uint32(_COLUMN))
    return bits


def fraction(bits: jax.Array) -> jax.Array:
    """Float32 in [0, 1) from the upper 24 bits of uint32 [...]."""
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24)


class Draws:
    """Independent uniform numbers from a seed uint32 [...], returned one after the other.

    All are hashed at once, because hundreds of small hashes take long to compile. A caller's numbers depend only on the order of
    the calls; requesting more than `count` is an error.
    """

    def __init__(self, seed: jax.Array, count: int = 32):
        numbers = fraction(derive(jnp.asarray(seed)[..., None], 0xD1CE, jnp.arange(count)))
        self._numbers = iter([numbers[..., i] for i in range(count)])

    def __call__(self, low: float | jax.Array = 0.0, high: float | jax.Array = 1.0) -> jax.Array:
        """Uniform float32 [...] in [low, high)."""
        return low + (high - low) * next(self._numbers)


def lattice(seed: jax.Array, column: jax.Array, row: jax.Array) -> jax.Array:
    """Hash uint32 [...] of integer lattice points: int32 column and row [...]."""
    return mix(seed + column.astype(jnp.uint32) * jnp.uint32(_ROW) ^ row.astype(jnp.uint32) * jnp.uint32(_COLUMN))
