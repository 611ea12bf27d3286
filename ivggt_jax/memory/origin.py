"""Which token of which frame a cached token is: one int32 with each, that no stream is too long for."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def period(tokens: int) -> int:
    """Frames of so many tokens after which numbers begin again: the largest power of two for which they fit 31 bits."""
    return 1 << ((2**31 - 1) // tokens).bit_length() - 1


def number_tokens(first: Int[Array, " batch"], frames: int, tokens: int) -> Int[Array, "batch {frames}*{tokens}"]:
    """Numbers [batch,frames·tokens] of the tokens of `frames` frames from number `first` [batch] on.

    frame · tokens + token, with frames counted modulo `period`.
    """
    frame = (first[:, None] + jnp.arange(frames, dtype=jnp.int32)) % period(tokens)
    numbers = frame[..., None] * tokens + jnp.arange(tokens, dtype=jnp.int32)
    return numbers.reshape(first.shape[0], frames * tokens)


def places_after(numbers: Int[Array, "..."], first: Int[Array, "..."], tokens: int) -> Int[Array, "..."]:
    """How many tokens after the one with number `first` those with `numbers` came, where that is less than a period."""
    return (numbers - first) % (period(tokens) * tokens)


@dataclass(frozen=True)
class Origin:
    """Where the cached tokens come from: arrays [batch, slot, head], leftovers where the slot is not live."""

    number: jax.Array
    """int32, of `number_tokens`."""
    newest: jax.Array
    """int32 [batch]: number of the stream's newest frame, from 0."""
    tokens: int
    """Tokens of a frame (P)."""
    special_tokens: int
    """Camera and register tokens, the first of a frame."""

    @property
    def frame(self) -> Int[Array, "batch slot head"]:
        """int32: the frame's number in its stream, from 0. One older than a `period` seems younger, by periods.

        At 518×392 that is a million frames, ten hours of 30 a second.
        """
        newest = self.newest[:, None, None]
        return newest - (newest - self.number // self.tokens) % period(self.tokens)

    @property
    def token(self) -> Int[Array, "batch slot head"]:
        """int32: the place in the frame; camera, registers, then patches row by row."""
        return self.number % self.tokens

    @property
    def special(self) -> Bool[Array, "batch slot head"]:
        """bool: camera and register tokens."""
        return self.token < self.special_tokens
