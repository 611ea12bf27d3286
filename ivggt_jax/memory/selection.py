"""Choosing without sorting: XLA makes of `lax.top_k` with a large k a sort of everything on a GPU.

A number's place in the order is a function of its bits, so the k-th largest is found digit by digit, exactly.
"""

import jax
import jax.numpy as jnp
from jax import lax

DIGIT = 4
"""Bits found in a pass over the numbers; it counts, for each of the 15 digits above 0, how many numbers reach it."""
BLOCK = 512
"""Marks whose running count one product with a triangle of ones gives."""


def largest(numbers: jax.Array, count: jax.Array) -> jax.Array:
    """Marks, bool [...,N], the `count` [...] largest of float32 numbers [...,N]; of equal ones those that come first.

    In `lax.top_k`'s order: −NaN, −∞, …, −0, 0, …, ∞, NaN.
    """
    order = _order(numbers)
    least = jnp.zeros(count.shape, jnp.uint32)  # the largest with the digits found so far that `count` numbers reach
    for shift in range(32 - DIGIT, -1, -DIGIT):
        tried = least[..., None] | jnp.arange(1, 1 << DIGIT, dtype=jnp.uint32) << shift
        reached = jnp.sum(order[..., None, :] >= tried[..., None], axis=-1, dtype=jnp.int32)
        least |= jnp.sum(reached >= count[..., None], axis=-1, dtype=jnp.uint32) << shift
    above = order > least[..., None]
    equal = order == least[..., None]
    room = count - jnp.sum(above, axis=-1, dtype=jnp.int32)
    return above | (equal & (running_count(equal) <= room[..., None]))


def places(marks: jax.Array, most: int) -> jax.Array:
    """Where the marks [...,N] are: int32 [...,most], ascending, the first `most` of them, padded with N."""
    width = marks.shape[-1]
    rows = marks.reshape(-1, width)
    slot = jnp.where(rows, running_count(rows) - 1, most)
    row = jnp.arange(rows.shape[0])[:, None]
    found = jnp.full((rows.shape[0], most), width, jnp.int32).at[row, slot].set(jnp.arange(width), mode="drop")
    return found.reshape(*marks.shape[:-1], most)


def running_count(marks: jax.Array) -> jax.Array:
    """How many of the marks [...,N] there are up to each, itself included, int32 [...,N]."""
    width = marks.shape[-1]
    blocks = jnp.pad(marks, [(0, 0)] * (marks.ndim - 1) + [(0, -width % BLOCK)])
    blocks = blocks.reshape(*marks.shape[:-1], -1, BLOCK).astype(jnp.bfloat16)
    # Whole numbers up to 512, in a float32 sum of products of zeros and ones: exact.
    within = jnp.matmul(blocks, jnp.triu(jnp.ones((BLOCK, BLOCK), jnp.bfloat16)), preferred_element_type=jnp.float32)
    within = within.astype(jnp.int32)
    before = jnp.cumsum(within[..., -1], axis=-1) - within[..., -1]
    return (within + before[..., None]).reshape(*marks.shape[:-1], -1)[..., :width]


def _order(numbers: jax.Array) -> jax.Array:
    """uint32 [...,N] in the order of float32 numbers."""
    bits = lax.bitcast_convert_type(numbers, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))
