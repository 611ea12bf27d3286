"""A candidate, not in use: `diversity_in_place` written anew with Pallas for Mosaic, as attention_on_hopper.py is.

It lowers with JAX 0.10 and 0.12, and the interpreter that comes with JAX 0.12 runs it, but it has not run on a GPU:
tools/gpu/kernels.py checks and times it beside the kernel in use.

With U [slot,D] the live keys at norm 1, the redundancy is two products: the candidates, as 0 and 1, times U give the sum whose
mean is wanted, and U times the mean gives the cosines. One kernel does both, each block of keys by a warpgroup of its own. The
second pass takes the norms anew: it has the keys at hand, and nothing else is stored in between.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

from ivggt_jax.kernels import BLOCK

plgpu: Any = mosaic_gpu

GRID = ("entry", "block", "head")
"""Heads last: those of a slot lie side by side."""
WARPS, LANES, CHANNELS = 4, 32, 4
"""Of a warpgroup, of a warp, and of a key what a lane reads at once."""


def diversity_hopper(
    keys: jax.Array,
    layer: int | jax.Array,
    length: jax.Array,
    candidates: jax.Array,
    scales: jax.Array | None = None,
    interpret: Any = False,
) -> jax.Array:
    """`policies.diversity` of one layer of keys [layer,B,slot,H,D]; 0 where a slot is not live.

    length [B] int32; candidates bool [B,H,slot]. The `scales` of int8 keys change no direction and are not read. D is 16, 32 or
    64, the number of slots a multiple of `BLOCK`. `interpret` runs it on any device.
    """
    batch, slots, heads, head_dim = keys.shape[1:]
    blocks = slots // BLOCK

    def times(vectors: jax.Array, axis: int) -> jax.Array:
        shape = (batch, heads, blocks, (head_dim, BLOCK)[axis])
        return plgpu.kernel(
            partial(_block, axis=axis),
            out_type=jax.ShapeDtypeStruct(shape, jnp.float32),
            grid=(batch, blocks, heads),
            grid_names=GRID,
            interpret=interpret,
        )(jnp.reshape(jnp.asarray(layer, jnp.int32), 1), length, keys, vectors)

    sums = times(candidates.astype(jnp.float32).reshape(batch, heads, blocks, BLOCK), axis=0)
    mean = sums.sum(2, keepdims=True) / jnp.maximum(candidates.sum(2), 1)[..., None, None]
    mean = jnp.pad(mean, [(0, 0)] * 3 + [(0, BLOCK - head_dim)])  # JAX 0.10 copies no less than 128 bytes
    return times(mean, axis=1).reshape(batch, heads, slots)


def _block(layer_ref: Any, length_ref: Any, key_ref: Any, vector_ref: Any, product_ref: Any, *, axis: int) -> None:
    """The product along an axis of a block of keys and a vector, which is the block's own (axis 0) or the same for all."""
    entry, block, head = (lax.axis_index(name) for name in GRID)
    layer, length, first = layer_ref[0], length_ref[entry], block * BLOCK

    def compute(key: Any, vector: Any, product: Any, vector_here: Any, key_here: Any) -> None:
        plgpu.copy_gmem_to_smem(vector_ref.at[entry, head, (block, 0)[axis]], vector, vector_here)

        @pl.when(first < length)
        def _() -> None:
            plgpu.copy_gmem_to_smem(key_ref.at[layer, entry, pl.ds(first, BLOCK), head], key, key_here)
            plgpu.barrier_wait(key_here)

        plgpu.barrier_wait(vector_here)
        product[...] = _product(key, vector, length - first, axis)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(product, product_ref.at[entry, head, block])
        plgpu.wait_smem_to_gmem(0)

    pl.run_scoped(
        compute,
        key=plgpu.SMEM((BLOCK, key_ref.shape[-1]), key_ref.dtype),
        vector=plgpu.SMEM((BLOCK,), jnp.float32),
        product=plgpu.SMEM(product_ref.shape[-1:], jnp.float32),
        vector_here=plgpu.Barrier(),
        key_here=plgpu.Barrier(),
    )


def _product(key_ref: Any, vector_ref: Any, count: jax.Array, axis: int) -> jax.Array:
    """The first `count` keys [slot,D], at norm 1, times a vector along an axis. The others may be NaN."""
    shape = key_ref.shape
    layout = _layout(shape[1])

    def along(x: jax.Array, axis: int) -> jax.Array:
        return plgpu.layout_cast(lax.broadcast_in_dim(x, shape, [axis]), layout)

    key = plgpu.layout_cast(key_ref[...], layout).astype(jnp.float32)
    vector = plgpu.layout_cast(vector_ref[pl.ds(0, shape[axis])], layout.reduce(1 - axis))
    live = plgpu.layout_cast(lax.broadcasted_iota(jnp.int32, shape, 0), layout) < count
    inverse = lax.rsqrt(jnp.maximum(jnp.sum(key * key, axis=1), 1e-24))
    return jnp.sum(jnp.where(live, key * along(inverse, 0) * along(vector, axis), 0.0), axis=axis)


def _layout(head_dim: int) -> Any:
    """Which thread has what of keys [slot,D]: each warp some whole keys that lie one after another, and its lanes share them."""
    keys = LANES * CHANNELS // head_dim
    tiling = plgpu.Tiling(((WARPS * keys, head_dim), (keys, head_dim), (CHANNELS,)))
    return plgpu.Layout.TILED(tiling, warp_dims=(-5,), lane_dims=(-3, -2), vector_dim=-1)
