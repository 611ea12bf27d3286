"""Which token of which frame a cached token is: one int32 each, whatever the stream's length."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def period(tokens: int) -> int:
    """After how many frames of `tokens` tokens numbering restarts: the largest power of two for which numbers fit 31 bits."""
    return 1 << ((2**31 - 1) // tokens).bit_length() - 1


def number_tokens(first: Int[Array, " batch"], frames: int, tokens: int) -> Int[Array, "batch {frames}*{tokens}"]:
    """Numbers [batch,frames·tokens] of the tokens of `frames` frames, starting at frame number `first` [batch].

    A number is frame · tokens + token, with the frame taken modulo `period`.
    """
    frame = (first[:, None] + jnp.arange(frames, dtype=jnp.int32)) % period(tokens)
    numbers = frame[..., None] * tokens + jnp.arange(tokens, dtype=jnp.int32)
    return numbers.reshape(first.shape[0], frames * tokens)


def places_after(numbers: Int[Array, "..."], first: Int[Array, "..."], tokens: int) -> Int[Array, "..."]:
    """How many tokens after the token `first` those with `numbers` came, if that is less than a period."""
    return (numbers - first) % (period(tokens) * tokens)


@dataclass(frozen=True)
class Origin:
    """Origin of the cached tokens: arrays [batch, slot, head]; slots that are not live hold old values."""

    number: jax.Array
    """int32: from `number_tokens`."""
    newest: jax.Array
    """int32 [batch]: number of the stream's newest frame, from 0."""
    tokens: int
    """Tokens of a frame (P)."""
    special_tokens: int
    """Camera and register tokens; they come first in a frame."""

    @property
    def frame(self) -> Int[Array, "batch slot head"]:
        """int32: the frame's number in its stream, from 0. A frame older than a `period` appears newer by whole periods.

        At 518×392 a period is a million frames: ten hours at 30 frames per second.
        """
        newest = self.newest[:, None, None]
        return newest - (newest - self.number // self.tokens) % period(self.tokens)

    @property
    def token(self) -> Int[Array, "batch slot head"]:
        """int32: index in the frame: camera, registers, then patches row by row."""
        return self.number % self.tokens

    @property
    def special(self) -> Bool[Array, "batch slot head"]:
        """bool: camera and register tokens."""
        return self.token < self.special_tokens
