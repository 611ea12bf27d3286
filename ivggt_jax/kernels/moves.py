"""Which tokens of a layer go, and which of the others move into their slots: one GPU kernel, where XLA would sort.

The order of floats is that of integers made of their bits, so the k-th largest is found digit by digit, exactly.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ivggt_jax.kernels import plgpu

SLOTS, WARPS = 4096, 8
"""Slots that are read at a time, a group, and warps; each head is one program."""
DIGIT = 2
"""Bits of the k-th largest that a pass over the live slots determines."""


def plan_moves(
    redundancy: jax.Array, length: jax.Array, target: jax.Array, most: int, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Which slots of a layer become free, and which tokens move there: holes and movers, both int32 [B,H,most].

    The `length − target` largest of redundancy [B,H,slot] go in every head, among equal ones the first. It is float32, never NaN,
    and −∞ from slot `length` on. Holes are their slots below `target`; movers are the slots from `target` to `length` that stay.
    There are as many of either, in ascending order, padded with the number of slots. `length` and `target` are [B] int32, `most`
    is at least `length − target`. `interpret` runs it on any device.
    """
    batch, heads, _ = redundancy.shape
    found = jax.ShapeDtypeStruct((batch, heads, most), jnp.int32)
    return pl.pallas_call(
        partial(_plan_head, most=most),
        grid=(heads, batch),
        out_shape=(found, found),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=interpret,
        name="plan_moves",
    )(redundancy, length, target)


def _plan_head(redundancy_ref: Any, length_ref: Any, target_ref: Any, hole_ref: Any, mover_ref: Any, most: int) -> None:
    """`plan_moves` of one head."""
    head, entry, slots = pl.program_id(0), pl.program_id(1), redundancy_ref.shape[2]
    length, target = length_ref[entry], target_ref[entry]
    count, groups = length - target, (length + SLOTS - 1) // SLOTS

    def group(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Slots of a group, and integers in the order of their redundancies."""
        slot = index * SLOTS + jnp.arange(SLOTS, dtype=jnp.int32)
        # Bounded by the constant `slots`, not by `length`: so the compiler knows that it may read several numbers at once.
        number = plgpu.load(redundancy_ref.at[entry, head, slot], mask=slot < slots, other=-jnp.inf)
        bits = lax.bitcast_convert_type(number, jnp.int32)
        return slot, bits ^ ((bits >> 31) & jnp.int32(2**31 - 1))

    def digit(turn: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """The next digit of the smallest integer that goes, and how many larger ones are known to go."""
        least, larger = carry
        unit = jnp.int32(1) << (32 - DIGIT - DIGIT * turn)
        candidates = [least + d * unit for d in range(1, 1 << DIGIT)]

        def reach(index: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
            order = group(index)[1]
            return [x + (order >= candidate).astype(jnp.int32) for x, candidate in zip(sums, candidates, strict=True)]

        reaching = lax.fori_loop(0, groups, reach, [jnp.zeros(SLOTS, jnp.int32) for _ in candidates])
        for counts in reaching:
            reached = jnp.sum(counts, dtype=jnp.int32)
            enough = reached >= count
            least += jnp.where(enough, unit, 0)
            larger = jnp.where(enough, larger, jnp.maximum(larger, reached))
        return least, larger

    least, larger = lax.fori_loop(0, 32 // DIGIT, digit, (jnp.int32(-(2**31)), jnp.int32(0)))

    def move(index: jax.Array, seen: list[jax.Array]) -> list[jax.Array]:
        """Store the holes and movers of a group behind the `seen` ones; of the slots equal to `least` the first go."""
        slot, order = group(index)
        equals, *stored = seen
        rank, equals = _rank(order == least, equals)
        gone = (order > least) | ((order == least) & (rank < count - larger))
        marks = gone & (slot < target), ~gone & (slot >= target) & (slot < length)
        for which, (ref, marked) in enumerate(zip((hole_ref, mover_ref), marks, strict=True)):
            place, stored[which] = _rank(marked, stored[which])
            plgpu.store(ref.at[entry, head, place], slot, mask=marked)
        return [equals, *stored]

    _, *stored = lax.fori_loop(0, groups, move, [jnp.int32(0)] * 3)
    for ref, number in zip((hole_ref, mover_ref), stored, strict=True):
        for start in range(0, most, SLOTS):
            place = start + jnp.arange(SLOTS, dtype=jnp.int32)
            padding = jnp.full(SLOTS, slots, jnp.int32)
            plgpu.store(ref.at[entry, head, place], padding, mask=(place >= number) & (place < most))


def _rank(marks: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many marks there are before each slot of a group, and in all, with those `before` the group."""
    ones = marks.astype(jnp.int32)
    return before + jnp.cumsum(ones) - ones, before + jnp.sum(ones, dtype=jnp.int32)
