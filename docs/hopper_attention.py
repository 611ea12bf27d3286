"""A candidate, not in use: `attend_in_place` with the tensor instructions of Hopper GPUs (FlashAttention-3, arXiv 2407.08608).

Written with Pallas for Mosaic, JAX 0.11. It is right in Pallas's interpreter for GPUs (taught to take an operand of wgmma from
registers) and compiles for an H200 without spilling registers, but has not run on one: gpu_kernels.py checks and times it
beside the kernel in use, Pallas for Triton's.

Two warpgroups compute, each 64 queries of one head, and take turns: one has the tensor cores while the other makes weights of
its scores. A third loads keys and values ahead of them.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

ROWS, GROUPS = 64, 2
"""Queries of a warpgroup, and warpgroups that compute."""
LEAST = -1e30
"""In place of −∞, which would make NaN of a difference."""
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
    shared by so many `parts` of the grid, loaded in blocks of `block`, a multiple of 64 that divides K, and `stages` blocks
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
    """One block of the grid: two tiles of queries, a part of the keys."""
    query_ref = refs[2]
    head_dim, dtype = query_ref.shape[-1], query_ref.dtype
    swizzle = plgpu.SwizzleTransform(128)
    operand = partial(plgpu.SMEM, dtype=dtype, transforms=(plgpu.TilingTransform((8, 64)), swizzle))
    result = partial(plgpu.SMEM, dtype=jnp.float32, transforms=(plgpu.TilingTransform((8, 32)), swizzle))
    pl.run_scoped(
        partial(_warpgroup, refs, parts=parts, block=block, stages=stages),
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


def _warpgroup(
    refs: tuple, *, parts: int, block: int, stages: int, query: Any, keys: Any, values: Any, output: Any, weight: Any,
    query_here: Any, keys_here: Any, values_here: Any, tail_here: Any, keys_used: Any, values_used: Any, turn: Any,
) -> None:  # fmt: skip
    """What each of the three does."""
    layer_ref, length_ref, query_ref, key_ref, value_ref, part_ref, weight_ref = refs
    head, tile, both, group = (lax.axis_index(name) for name in ("head", "tile", "part", "warpgroup"))
    entry, part = both // parts, both % parts
    layer, length = layer_ref[0], length_ref[entry]
    blocks = (length + block - 1) // block
    each = (blocks + parts - 1) // parts
    first = jnp.minimum(part * each, blocks)
    count = jnp.minimum(each, blocks - first)
    whole = jnp.clip(length // block - first, 0, count)  # blocks without dead slots
    head_dim = query.shape[-1]
    to_logarithm = math.log2(math.e) / math.sqrt(head_dim)

    def live(index: jax.Array, shape: tuple[int, int], axis: int, start: int = 0) -> jax.Array:
        slot = plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=WGMMA)
        return (first + index) * block + start + slot < length

    def take_turns() -> None:
        plgpu.barrier_arrive(turn)
        plgpu.barrier_wait(turn)

    @pl.when(group < GROUPS)
    def _compute() -> None:
        plgpu.set_max_registers(224, action="increase")
        rows = pl.ds((tile * GROUPS + group) * ROWS, ROWS)
        plgpu.copy_gmem_to_smem(query_ref.at[entry, rows, head], query.at[group], query_here.at[group])
        plgpu.barrier_wait(query_here.at[group])
        pl.when(count > 0)(lambda: plgpu.barrier_wait(keys_here.at[0]))
        pl.when(group == 1)(take_turns)

        def step(index: jax.Array, carry: tuple, masked: bool) -> tuple:
            found, most, total = carry
            stage = index % stages

            def score(accumulator: Any) -> jax.Array:
                plgpu.wgmma(accumulator, query.at[group], keys.at[stage].T)
                take_turns()
                return accumulator[...]

            scores = pl.run_scoped(score, plgpu.ACC((ROWS, block), jnp.float32))
            plgpu.barrier_arrive(keys_used.at[stage])
            if masked:
                scores = jnp.where(live(index, scores.shape, 1), scores, LEAST)
            new_most = jnp.maximum(most, scores.max(axis=1) * to_logarithm)
            shrink = jnp.exp2(most - new_most)
            chances = jnp.exp2(scores * to_logarithm - lax.broadcast_in_dim(new_most, scores.shape, [0]))
            found *= lax.broadcast_in_dim(shrink, found.shape, [0])
            total = total * shrink + chances.sum(axis=1)
            chances = chances.astype(query.dtype)
            # Up to here before the tensor cores are asked for.
            found, new_most, total, chances = lax.optimization_barrier((found, new_most, total, chances))
            plgpu.barrier_arrive(turn)
            plgpu.barrier_wait(values_here.at[stage])
            plgpu.barrier_wait(turn)

            def attend(accumulator: Any) -> jax.Array:
                plgpu.wgmma(accumulator, chances, values.at[stage])
                pl.when(index + 1 < count)(lambda: plgpu.barrier_wait(keys_here.at[(index + 1) % stages]))
                return accumulator[...]

            found += pl.run_scoped(attend, plgpu.ACC((ROWS, head_dim), jnp.float32))
            plgpu.barrier_arrive(values_used.at[stage])
            return found, new_most, total

        of_row = WGMMA.reduce(1)
        carry = (
            plgpu.layout_cast(jnp.zeros((ROWS, head_dim), jnp.float32), WGMMA),
            plgpu.layout_cast(jnp.full((ROWS,), LEAST, jnp.float32), of_row),
            plgpu.layout_cast(jnp.zeros((ROWS,), jnp.float32), of_row),
        )
        carry = lax.fori_loop(0, whole, partial(step, masked=False), carry)
        found, most, total = lax.fori_loop(whole, count, partial(step, masked=True), carry)
        pl.when(group == 0)(take_turns)
        total = jnp.maximum(total, 1e-30)  # a part without keys has no weight
        output.at[group][...] = found / lax.broadcast_in_dim(total, found.shape, [0])
        weight.at[group][...] = most + jnp.log(total) * math.log2(math.e)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(output.at[group], part_ref.at[part, entry, head, rows])
        plgpu.copy_smem_to_gmem(weight.at[group], weight_ref.at[part, entry, head, rows])
        plgpu.wait_smem_to_gmem(0)

    @pl.when(group == GROUPS)
    def _load() -> None:
        plgpu.set_max_registers(56, action="decrease")

        @pl.loop(0, count)
        def _(index: jax.Array) -> None:
            stage = index % stages
            where = (layer, entry, pl.ds((first + index) * block, block), head)
            pl.when(index >= stages)(lambda: plgpu.barrier_wait(keys_used.at[stage]))
            plgpu.copy_gmem_to_smem(key_ref.at[where], keys.at[stage], keys_here.at[stage])
            pl.when(index >= stages)(lambda: plgpu.barrier_wait(values_used.at[stage]))

            @pl.when(index < whole)
            def _whole() -> None:
                plgpu.copy_gmem_to_smem(value_ref.at[where], values.at[stage], values_here.at[stage])

            @pl.when(index >= whole)
            def _tail() -> None:  # nothing times what is dead may be NaN
                plgpu.copy_gmem_to_smem(value_ref.at[where], values.at[stage], tail_here)
                plgpu.barrier_wait(tail_here)
                for start in range(0, block, ROWS):
                    piece = values.at[stage, pl.ds(start, ROWS)]
                    read = plgpu.load(piece, (), layout=WGMMA)
                    piece[...] = jnp.where(live(index, read.shape, 0, start), read, jnp.zeros_like(read))
                plgpu.commit_smem()
                plgpu.barrier_arrive(values_here.at[stage])

        @pl.loop(jnp.maximum(count - stages, 0), count)
        def _(index: jax.Array) -> None:  # the last ones are used up before their barriers go
            plgpu.barrier_wait(keys_used.at[index % stages])
            plgpu.barrier_wait(values_used.at[index % stages])
