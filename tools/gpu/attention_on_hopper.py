"""A candidate, not in use: `attend_in_place` with the tensor instructions of Hopper GPUs (FlashAttention-3, arXiv 2407.08608).

Written with Pallas for Mosaic, the successor of Pallas for Triton, which is deprecated since JAX 0.11. It lowers with JAX 0.10
and 0.12 but has not run on a GPU: tools/gpu/kernels.py checks and times it against the kernel in use. JAX's interpreter cannot
run it, because it does not support wgmma operands in registers.

Two warpgroups compute, each 64 queries of one head, and take turns: one uses the tensor cores while the other computes weights
from its scores. A third loads keys and values ahead of them.
"""

import math
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

plgpu: Any = mosaic_gpu

ROWS, GROUPS = 64, 2
"""Queries per warpgroup, and warpgroups that compute."""
LEAST = -1e30
"""Used instead of −∞, whose differences would be NaN."""
WGMMA = plgpu.Layout.WGMMA


def attend_hopper(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    layer: int | jax.Array,
    length: jax.Array,
    *,
    parts: int = 11,
    block: int = 128,
    stages: int = 4,
    interpret: Any = False,
) -> jax.Array:
    """Attention to the live keys and values of a layer of a cache.

    query bfloat16 [B,Q,H,64]; keys and values bfloat16 [layer,B,K,H,64]; length [B] int32 → bfloat16 [B,Q,H,64]. The keys are
    divided among `parts` parts of the grid and loaded in blocks of `block`, a multiple of 64 that divides K, `stages` blocks
    ahead.
    """
    batch, queries, heads, head_dim = query.shape
    tiles = -(-queries // (GROUPS * ROWS))
    padded = tiles * GROUPS * ROWS
    query = jnp.pad(query, ((0, 0), (0, padded - queries), (0, 0), (0, 0)))
    shape = (parts, batch, heads, padded)
    found, weights = plgpu.kernel(
        partial(_attend, parts=parts, block=block, stages=stages),
        out_type=(jax.ShapeDtypeStruct((*shape, head_dim), jnp.float32), jax.ShapeDtypeStruct(shape, jnp.float32)),
        grid=(heads, tiles, batch * parts),
        grid_names=("head", "tile", "part"),
        num_threads=GROUPS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=interpret,
    )(jnp.reshape(jnp.asarray(layer, jnp.int32), 1), length, query, keys, values)
    weights = jnp.exp2(weights - weights.max(0))[..., None]
    attended = jnp.sum(found * weights, axis=0) / jnp.sum(weights, axis=0)
    return attended[:, :, :queries].swapaxes(1, 2).astype(query.dtype)


def _attend(*refs: Any, parts: int, block: int, stages: int) -> None:
    """One block of the grid: two tiles of queries and a part of the keys."""
    query_ref = refs[2]
    head_dim, dtype = query_ref.shape[-1], query_ref.dtype
    swizzle = plgpu.SwizzleTransform(128)
    operand = partial(plgpu.SMEM, dtype=dtype, transforms=(plgpu.TilingTransform((8, 64)), swizzle))
    result = partial(plgpu.SMEM, dtype=jnp.float32, transforms=(plgpu.TilingTransform((8, 32)), swizzle))
    pl.run_scoped(
        partial(_warpgroup, refs, parts=parts, block=block),
        query=operand((GROUPS, ROWS, head_dim)),
        keys=operand((stages, block, head_dim)),
        values=operand((stages, block, head_dim)),
        output=result((GROUPS, ROWS, head_dim)),
        weight=plgpu.SMEM((GROUPS, ROWS), jnp.float32),
        query_here=plgpu.Barrier(num_barriers=GROUPS),
        keys_here=plgpu.Barrier(num_barriers=stages),
        values_here=plgpu.Barrier(num_barriers=stages),
        tail_here=plgpu.Barrier(),
        keys_used=plgpu.Barrier(num_arrivals=GROUPS, num_barriers=stages),
        values_used=plgpu.Barrier(num_arrivals=GROUPS, num_barriers=stages),
        turn=plgpu.Barrier(num_arrivals=GROUPS),
        collective_axes="warpgroup",
    )


@dataclass(frozen=True)
class _Part:
    """The keys of a block of the grid: `count` blocks starting at `first`, of which the first `whole` have no dead slots."""

    block: int
    length: jax.Array
    first: jax.Array
    count: jax.Array
    whole: jax.Array

    def live(self, index: jax.Array, shape: tuple[int, int], axis: int, start: int = 0) -> jax.Array:
        """bool, of `shape`: live slots along an axis, from `start` on in a block of the part."""
        slot = plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=WGMMA)
        return (self.first + index) * self.block + start + slot < self.length


def _warpgroup(refs: tuple[Any, ...], *, parts: int, block: int, **shared: Any) -> None:
    """Assigns each of the three warpgroups its work."""
    layer_ref, length_ref, query_ref, key_ref, value_ref, part_ref, weight_ref = refs
    head, tile, both, group = (lax.axis_index(name) for name in ("head", "tile", "part", "warpgroup"))
    entry, part = both // parts, both % parts
    layer, length = layer_ref[0], length_ref[entry]
    blocks = (length + block - 1) // block
    each = (blocks + parts - 1) // parts
    first = jnp.minimum(part * each, blocks)
    count = jnp.minimum(each, blocks - first)
    mine = _Part(block, length, first, count, whole=jnp.clip(length // block - first, 0, count))
    memory = SimpleNamespace(**shared)

    @pl.when(group < GROUPS)
    def _() -> None:
        plgpu.set_max_registers(224, action="increase")
        rows = pl.ds((tile * GROUPS + group) * ROWS, ROWS)
        results = part_ref.at[part, entry, head, rows], weight_ref.at[part, entry, head, rows]
        _compute(query_ref.at[entry, rows, head], results, mine, memory, group)

    @pl.when(group == GROUPS)
    def _() -> None:
        plgpu.set_max_registers(56, action="decrease")
        key, value = (ref.at[layer, entry, :, head] for ref in (key_ref, value_ref))
        _load(key, value, mine, memory)


def _compute(query_ref: Any, results: tuple[Any, ...], part: _Part, memory: Any, group: jax.Array) -> None:
    """One warpgroup's queries [64,D] against the part: the attention output, and the log2 of the sum of weights."""
    query, output, weight = (x.at[group] for x in (memory.query, memory.output, memory.weight))
    plgpu.copy_gmem_to_smem(query_ref, query, memory.query_here.at[group])
    plgpu.barrier_wait(memory.query_here.at[group])
    pl.when(part.count > 0)(lambda: plgpu.barrier_wait(memory.keys_here.at[0]))
    pl.when(group == 1)(lambda: _take_turns(memory.turn))
    carry = (
        plgpu.layout_cast(jnp.zeros(query.shape, jnp.float32), WGMMA),
        plgpu.layout_cast(jnp.full((ROWS,), LEAST, jnp.float32), WGMMA.reduce(1)),
        plgpu.layout_cast(jnp.zeros((ROWS,), jnp.float32), WGMMA.reduce(1)),
    )
    step = partial(_attend_block, query=query, part=part, memory=memory)
    carry = lax.fori_loop(0, part.whole, partial(step, masked=False), carry)
    found, most, total = lax.fori_loop(part.whole, part.count, partial(step, masked=True), carry)
    pl.when(group == 0)(lambda: _take_turns(memory.turn))
    total = jnp.maximum(total, 1e-30)  # a part without keys has no weight
    output[...] = found / lax.broadcast_in_dim(total, found.shape, [0])
    weight[...] = most + jnp.log(total) * math.log2(math.e)
    plgpu.commit_smem()
    for made, place in zip((output, weight), results, strict=True):
        plgpu.copy_smem_to_gmem(made, place)
    plgpu.wait_smem_to_gmem(0)


def _take_turns(turn: Any) -> None:
    plgpu.barrier_arrive(turn)
    plgpu.barrier_wait(turn)


def _attend_block(
    index: jax.Array, carry: tuple[Any, ...], *, query: Any, part: _Part, memory: Any, masked: bool
) -> tuple[Any, ...]:
    """One block of keys; carry is the output so far [64,D], the largest score [64] and the sum of weights [64]."""
    found, most, total = carry
    stages, head_dim = memory.keys.shape[0], query.shape[-1]
    stage = index % stages
    to_logarithm = math.log2(math.e) / math.sqrt(head_dim)

    def score(accumulator: Any) -> jax.Array:
        plgpu.wgmma(accumulator, query, memory.keys.at[stage].T)
        _take_turns(memory.turn)
        return accumulator[...]

    scores = pl.run_scoped(score, plgpu.ACC((ROWS, part.block), jnp.float32))
    plgpu.barrier_arrive(memory.keys_used.at[stage])
    if masked:
        scores = jnp.where(part.live(index, scores.shape, 1), scores, LEAST)
    new_most = jnp.maximum(most, scores.max(axis=1) * to_logarithm)
    shrink = jnp.exp2(most - new_most)
    chances = jnp.exp2(scores * to_logarithm - lax.broadcast_in_dim(new_most, scores.shape, [0]))
    found *= lax.broadcast_in_dim(shrink, found.shape, [0])
    total = total * shrink + chances.sum(axis=1)
    chances = chances.astype(query.dtype)
    # Everything up to here must finish before the tensor cores are requested.
    found, new_most, total, chances = lax.optimization_barrier((found, new_most, total, chances))
    plgpu.barrier_arrive(memory.turn)
    plgpu.barrier_wait(memory.values_here.at[stage])
    plgpu.barrier_wait(memory.turn)

    def attend(accumulator: Any) -> jax.Array:
        plgpu.wgmma(accumulator, chances, memory.values.at[stage])
        following = (index + 1) % stages
        pl.when(index + 1 < part.count)(lambda: plgpu.barrier_wait(memory.keys_here.at[following]))
        return accumulator[...]

    found += pl.run_scoped(attend, plgpu.ACC((ROWS, head_dim), jnp.float32))
    plgpu.barrier_arrive(memory.values_used.at[stage])
    return found, new_most, total


def _load(key_ref: Any, value_ref: Any, part: _Part, memory: Any) -> None:
    """Load the part's keys and values [K,D] into the stages, each once both warpgroups have used its previous content."""
    stages = memory.keys.shape[0]

    @pl.loop(0, part.count)
    def _(index: jax.Array) -> None:
        stage = index % stages
        slots = pl.ds((part.first + index) * part.block, part.block)
        pl.when(index >= stages)(lambda: plgpu.barrier_wait(memory.keys_used.at[stage]))
        plgpu.copy_gmem_to_smem(key_ref.at[slots], memory.keys.at[stage], memory.keys_here.at[stage])
        pl.when(index >= stages)(lambda: plgpu.barrier_wait(memory.values_used.at[stage]))

        @pl.when(index < part.whole)
        def _() -> None:
            plgpu.copy_gmem_to_smem(value_ref.at[slots], memory.values.at[stage], memory.values_here.at[stage])

        @pl.when(index >= part.whole)
        def _() -> None:  # zero times a dead value must not be NaN
            plgpu.copy_gmem_to_smem(value_ref.at[slots], memory.values.at[stage], memory.tail_here)
            plgpu.barrier_wait(memory.tail_here)
            for start in range(0, part.block, ROWS):
                piece = memory.values.at[stage, pl.ds(start, ROWS)]
                read = plgpu.layout_cast(piece[...], WGMMA)
                piece[...] = jnp.where(part.live(index, read.shape, 0, start), read, jnp.zeros_like(read))
            plgpu.commit_smem()
            plgpu.barrier_arrive(memory.values_here.at[stage])

    @pl.loop(jnp.maximum(part.count - stages, 0), part.count)
    def _(index: jax.Array) -> None:  # wait until the last ones are used before their barriers go
        plgpu.barrier_wait(memory.keys_used.at[index % stages])
        plgpu.barrier_wait(memory.values_used.at[index % stages])
