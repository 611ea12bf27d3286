"""Attention to the live part of a cache's layer, read in place: a GPU kernel (FlashAttention-2, arXiv 2307.08691)."""

import math
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ivggt_jax.kernels import plgpu

QUERIES, KEYS, WARPS, STAGES = 64, 64, 4, 3
"""Block size, warps, and loads in flight: the fastest of those tried on an H200."""
PARTS = 4
"""The keys are divided among this many blocks, so that each of the hundred-odd processors has several."""
Carry = tuple[jax.Array, jax.Array, jax.Array]
"""State of an online softmax: the largest score so far, the sum of the weights, and the sum of the weighted values."""
Power = Callable[[jax.Array, float, jax.Array], jax.Array]
"""(x, factor, offset) → 2^(x · factor − offset)."""
LEAST = -1e30
"""Used instead of −∞, whose differences would be NaN."""


def attend_in_place(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    layer: int | jax.Array,
    length: jax.Array,
    scales: tuple[jax.Array, jax.Array] | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`attend_layer` in bfloat16, without a copy of the layer, reading live keys only.

    query [B,Q,H,D]; keys and values [layer,B,K,H,D] of the query's type, or int8 with `scales`, two of [layer,B,K,H]; length [B]
    int32 → [B,Q,H,D] in the query's type. D is a power of two of at least 16, K a multiple of `KEYS`. `interpret` runs it on any
    device.
    """
    batch, queries, heads, head_dim = query.shape
    blocks = -(-queries // QUERIES)
    shape = (PARTS, batch, heads, queries)
    part = jax.ShapeDtypeStruct((*shape, head_dim), jnp.float32)
    weight = jax.ShapeDtypeStruct(shape, jnp.float32)
    operands = [jnp.reshape(jnp.asarray(layer, jnp.int32), 1), length, query, keys, values, *(scales or ())]
    parts, weights = pl.pallas_call(
        partial(_attend_block, power=power_of_two if interpret else _power_flushed),
        grid=(blocks, heads, batch * PARTS),
        out_shape=(part, weight),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
        name="attend_in_place",
    )(*operands)
    weights = jnp.exp2(weights - weights.max(0))[..., None]
    attended = jnp.sum(parts * weights, axis=0) / jnp.sum(weights, axis=0)
    return attended.swapaxes(1, 2).astype(query.dtype)


def _attend_block(*refs: Any, power: Power) -> None:
    """A block of queries of one head against one part of the keys: its own softmax, and the log2 of its sum."""
    layer_ref, length_ref, query_ref, key_ref, value_ref, *scale_refs, part_ref, weight_ref = refs
    queries, head_dim = query_ref.shape[1], query_ref.shape[3]
    head, entry, part = pl.program_id(1), pl.program_id(2) // PARTS, pl.program_id(2) % PARTS
    layer, length = layer_ref[0], length_ref[entry]
    rows = pl.ds(pl.program_id(0) * QUERIES, QUERIES)
    inside = pl.program_id(0) * QUERIES + jnp.arange(QUERIES) < queries
    query = plgpu.load(query_ref.at[entry, rows, head, :], mask=inside[:, None], other=0.0)
    to_logarithm = math.log2(math.e) / math.sqrt(head_dim)

    def step(index: jax.Array, carry: Carry, whole: bool) -> Carry:
        maximum, total, output = carry
        where = (layer, entry, pl.ds(index * KEYS, KEYS), head)
        key, value = key_ref[(*where, slice(None))], value_ref[(*where, slice(None))]
        scores = plgpu.dot(query, key.astype(query.dtype).T)
        if scale_refs:
            scores *= scale_refs[0][where][None, :]
        if not whole:
            seen = index * KEYS + jnp.arange(KEYS) < length
            scores = jnp.where(seen[None, :], scores, LEAST)
            value = jnp.where(seen[:, None], value, jnp.zeros_like(value))
        new_maximum = jnp.maximum(maximum, jnp.max(scores, axis=1))
        offset = new_maximum * to_logarithm
        weights = power(scores, to_logarithm, offset[:, None])
        shrink = power(maximum, to_logarithm, offset)
        total = total * shrink + jnp.sum(weights, axis=1)
        if scale_refs:
            scale = scale_refs[1][where]
            weights *= (scale if whole else jnp.where(seen, scale, 0.0))[None, :]
        found = plgpu.dot(weights.astype(query.dtype), value.astype(query.dtype))
        return new_maximum, total, output * shrink[:, None] + found

    chunks = (length + KEYS - 1) // KEYS
    each = (chunks + PARTS - 1) // PARTS
    first, last = part * each, jnp.minimum((part + 1) * each, chunks)
    whole = jnp.maximum(jnp.minimum(last, length // KEYS), first)
    start = (
        jnp.full((QUERIES,), LEAST, jnp.float32),
        jnp.zeros((QUERIES,), jnp.float32),
        jnp.zeros((QUERIES, head_dim), jnp.float32),
    )
    carry = lax.fori_loop(first, whole, partial(step, whole=True), start)
    maximum, total, output = lax.fori_loop(whole, last, partial(step, whole=False), carry)
    total = jnp.maximum(total, 1e-30)  # a part without keys has no weight
    plgpu.store(part_ref.at[part, entry, head, rows, :], output / total[:, None], mask=inside[:, None])
    plgpu.store(weight_ref.at[part, entry, head, rows], maximum * to_logarithm + jnp.log2(total), mask=inside)


def power_of_two(x: jax.Array, factor: float, offset: jax.Array) -> jax.Array:
    """2^(x · factor − offset), float32; x and offset are broadcast."""
    return jnp.exp2(x * factor - offset)


def _power_flushed(x: jax.Array, factor: float, offset: jax.Array) -> jax.Array:
    """`power_of_two` on a GPU: a fused multiply-add and an exponential, with numbers below 2^−126 flushed to 0.

    Otherwise Triton rescales every argument and result to preserve such numbers, which takes a third of the loop.
    """
    bits = struct.pack(">f", factor).hex()
    (power,) = plgpu.elementwise_inline_asm(
        f"{{ .reg .f32 t; fma.rn.ftz.f32 t, $1, 0f{bits}, $2; ex2.approx.ftz.f32 $0, t; }}",
        args=[x, jnp.broadcast_to(-offset, x.shape)],
        constraints="=f,f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, jnp.float32)],
    )
    return power
