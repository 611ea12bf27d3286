"""Choosing without sorting: XLA makes of `lax.top_k` with a large k a sort of everything on a GPU.

A number's place in the order is a function of its bits, so the k-th largest is found digit by digit, exactly.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float32, Int, UInt32

DIGIT = 4
"""Bits found in a pass over the numbers, which counts how many have each digit."""
COUNTED = 128
"""Numbers of which one sum counts four digits, a byte for each: fewer than 256."""
BLOCK = 512
"""Marks whose running count one product with a triangle of ones gives."""


def largest(numbers: Float32[Array, "*rows N"], count: Int[Array, "*rows"]) -> Bool[Array, "*rows N"]:
    """Marks, bool [...,N], the `count` [...] largest of float32 numbers [...,N]; of equal ones those that come first.

    In `lax.top_k`'s order: −NaN, −∞, …, −0, 0, …, ∞, NaN.
    """
    order = _order(numbers)
    least = jnp.zeros(count.shape, jnp.uint32)  # of the k-th largest, the digits found so far
    room = count  # how many of the numbers that have these digits are chosen, beside all larger ones
    for shift in range(32 - DIGIT, -1, -DIGIT):
        reaching = _reaching((order ^ least[..., None]) >> shift)
        digit, larger = jnp.zeros_like(least), jnp.zeros_like(room)
        for candidate in range(1, 1 << DIGIT):  # written out: on a GPU a sum and a maximum are a kernel each
            enough = reaching[..., candidate] >= room
            digit += enough.astype(jnp.uint32)
            larger = jnp.where(enough, larger, jnp.maximum(larger, reaching[..., candidate]))
        least |= digit << shift
        room -= larger
    equal = order == least[..., None]
    return (order > least[..., None]) | (equal & (running_count(equal) <= room[..., None]))


def places(marks: Bool[Array, "*rows N"], most: int) -> Int[Array, "*rows most"]:
    """Where the marks [...,N] are: int32 [...,most], ascending, the first `most` of them, padded with N."""
    width = marks.shape[-1]
    rows = marks.reshape(-1, width)
    slot = jnp.where(rows, running_count(rows) - 1, most)
    row = jnp.arange(rows.shape[0])[:, None]
    found = jnp.full((rows.shape[0], most), width, jnp.int32).at[row, slot].set(jnp.arange(width), mode="drop")
    return found.reshape(*marks.shape[:-1], most)


def running_count(marks: Bool[Array, "*rows N"]) -> Int[Array, "*rows N"]:
    """How many of the marks [...,N] there are up to each, itself included, int32 [...,N]."""
    width = marks.shape[-1]
    blocks = jnp.pad(marks, [(0, 0)] * (marks.ndim - 1) + [(0, -width % BLOCK)])
    blocks = blocks.reshape(*marks.shape[:-1], -1, BLOCK).astype(jnp.bfloat16)
    # Whole numbers up to 512, in a float32 sum of products of zeros and ones: exact.
    within = jnp.matmul(blocks, jnp.triu(jnp.ones((BLOCK, BLOCK), jnp.bfloat16)), preferred_element_type=jnp.float32)
    within = within.astype(jnp.int32)
    before = jnp.cumsum(within[..., -1], axis=-1) - within[..., -1]
    return (within + before[..., None]).reshape(*marks.shape[:-1], -1)[..., :width]


def _reaching(numbers: UInt32[Array, "*rows N"]) -> Int[Array, "*rows 16"]:
    """How many of uint32 [...,N] are in d…15, for each digit d: int32 [...,16]. Padding adds to the first."""
    blocks = jnp.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, -numbers.shape[-1] % COUNTED)])
    blocks = blocks.reshape(*numbers.shape[:-1], 1, -1, COUNTED)
    four, digits = jnp.arange(4, dtype=jnp.uint32), jnp.arange(16)
    one = jnp.uint32(1) << 8 * (blocks & 3)
    sums = jnp.sum(jnp.where(blocks >> 2 == four[:, None, None], one, 0), axis=-1)
    shifted = sums[..., None, :, :] >> 8 * four[:, None, None]  # [...,digit % 4,digit // 4,block]
    counts = (shifted & 255).astype(jnp.int32)
    counted = (four[:, None] + 4 * four).astype(jnp.int32) >= digits[:, None, None]
    return jnp.sum(jnp.where(counted[..., None], counts[..., None, :, :, :], 0), axis=(-3, -2, -1))


def _order(numbers: Float32[Array, "*rows N"]) -> UInt32[Array, "*rows N"]:
    """uint32 [...,N] in the order of float32 numbers."""
    bits = lax.bitcast_convert_type(numbers, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))
