"""Selecting the k largest without sorting: on a GPU XLA compiles `lax.top_k` with a large k to a full sort.

The order of floats is a function of their bits, so the k-th largest is found digit by digit, exactly.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float32, Int, UInt32

DIGIT = 4
"""Bits determined per pass; a pass counts how many numbers have each digit."""
COUNTED = 128
"""Numbers per partial sum. Each sum holds four counters, one per byte, so a count must stay below 256."""
BLOCK = 512
"""Marks whose running count is one product with a triangular matrix of ones."""


def largest(numbers: Float32[Array, "*rows N"], count: Int[Array, "*rows"]) -> Bool[Array, "*rows N"]:
    """Mark the `count` [...] largest of float32 numbers [...,N], bool [...,N]; among equal ones the first.

    The order is that of `lax.top_k`: −NaN, −∞, …, −0, 0, …, ∞, NaN.
    """
    order = _order(numbers)
    least = jnp.zeros(count.shape, jnp.uint32)  # digits of the k-th largest found so far
    room = count  # how many numbers with these digits are among the chosen ones, besides all larger numbers
    for shift in range(32 - DIGIT, -1, -DIGIT):
        reaching = _reaching((order ^ least[..., None]) >> shift)
        digit, larger = jnp.zeros_like(least), jnp.zeros_like(room)
        for candidate in range(1, 1 << DIGIT):  # unrolled: on a GPU a sum and a maximum would be a kernel each
            enough = reaching[..., candidate] >= room
            digit += enough.astype(jnp.uint32)
            larger = jnp.where(enough, larger, jnp.maximum(larger, reaching[..., candidate]))
        least |= digit << shift
        room -= larger
    equal = order == least[..., None]
    return (order > least[..., None]) | (equal & (running_count(equal) <= room[..., None]))


def places(marks: Bool[Array, "*rows N"], most: int) -> Int[Array, "*rows most"]:
    """Indices of the marks [...,N]: int32 [...,most], ascending, the first `most` of them, padded with N."""
    width = marks.shape[-1]
    rows = marks.reshape(-1, width)
    slot = jnp.where(rows, running_count(rows) - 1, most)
    row = jnp.arange(rows.shape[0])[:, None]
    found = jnp.full((rows.shape[0], most), width, jnp.int32).at[row, slot].set(jnp.arange(width), mode="drop")
    return found.reshape(*marks.shape[:-1], most)


def running_count(marks: Bool[Array, "*rows N"]) -> Int[Array, "*rows N"]:
    """Inclusive running count of the marks [...,N], int32 [...,N]."""
    width = marks.shape[-1]
    blocks = jnp.pad(marks, [(0, 0)] * (marks.ndim - 1) + [(0, -width % BLOCK)])
    blocks = blocks.reshape(*marks.shape[:-1], -1, BLOCK).astype(jnp.bfloat16)
    # Exact: integers up to 512, as float32 sums of products of zeros and ones.
    within = jnp.matmul(blocks, jnp.triu(jnp.ones((BLOCK, BLOCK), jnp.bfloat16)), preferred_element_type=jnp.float32)
    within = within.astype(jnp.int32)
    before = jnp.cumsum(within[..., -1], axis=-1) - within[..., -1]
    return (within + before[..., None]).reshape(*marks.shape[:-1], -1)[..., :width]


def _reaching(numbers: UInt32[Array, "*rows N"]) -> Int[Array, "*rows 16"]:
    """How many of uint32 [...,N] lie in d…15, for each digit d: int32 [...,16]. Padding, of zeros, counts for d = 0."""
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
    """Map float32 numbers [...,N] to uint32 with the same order."""
    bits = lax.bitcast_convert_type(numbers, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))
