"""`diversity` of a cache's layer, read in place: two GPU kernels that pass over the live keys without copying them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from ivggt_jax.kernels import BLOCK, plgpu


def diversity_in_place(
    keys: jax.Array,
    layer: int | jax.Array,
    length: jax.Array,
    candidates: jax.Array,
    scales: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`policies.diversity` of one layer of keys [layer,B,slot,H,D]; 0 where a slot is not live.

    length [B] int32; candidates bool [B,H,slot]; `scales` [layer,B,slot,H] are those of int8 keys. D is a power of two, the
    number of slots a multiple of `BLOCK`. `interpret` runs it on any device.
    """
    batch, slots, heads, head_dim = keys.shape[1:]
    blocks = slots // BLOCK
    call = partial(
        pl.pallas_call,
        grid=(heads, blocks, batch),  # heads first, because the heads of a slot are adjacent
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
    )
    operands = [jnp.reshape(jnp.asarray(layer, jnp.int32), 1), length, keys, *([] if scales is None else [scales])]
    per_slot = jax.ShapeDtypeStruct((batch, heads, slots), jnp.float32)
    per_block = jax.ShapeDtypeStruct((batch, heads, blocks, head_dim), jnp.float32)
    inverse, sums = call(
        partial(_sum_block, scaled=scales is not None), out_shape=(per_slot, per_block), name="diversity_mean"
    )(candidates.astype(jnp.float32), *operands)
    mean = sums.sum(2) / jnp.maximum(candidates.sum(2), 1)[..., None]
    cosine = partial(_cosine_block, scaled=scales is not None)
    return call(cosine, out_shape=per_slot, name="diversity_cosine")(mean, inverse, *operands)


def _sum_block(candidates_ref: Any, *refs: Any, scaled: bool) -> None:
    """1 / norm of a block's keys, 0 where not live, and the sum of its candidates, normalised."""
    *key_refs, inverse_ref, sum_ref = refs
    head, block, entry = (pl.program_id(axis) for axis in range(3))
    slots = pl.ds(block * BLOCK, BLOCK)
    key, live = _keys(block, head, entry, key_refs, scaled)
    norm = jnp.sqrt(jnp.sum(key * key, axis=1))
    inverse = jnp.where(live, 1 / jnp.maximum(norm, 1e-12), 0.0)
    inverse_ref[entry, head, slots] = inverse
    weight = inverse * candidates_ref[entry, head, slots]
    sum_ref[entry, head, block, :] = jnp.sum(weight[:, None] * key, axis=0)


def _cosine_block(mean_ref: Any, inverse_ref: Any, *refs: Any, scaled: bool) -> None:
    """The cosine between a block's keys and the mean, times the mean's length."""
    *key_refs, cosine_ref = refs
    head, block, entry = (pl.program_id(axis) for axis in range(3))
    slots = pl.ds(block * BLOCK, BLOCK)
    key, _ = _keys(block, head, entry, key_refs, scaled)
    mean = mean_ref[entry, head, :]
    cosine_ref[entry, head, slots] = jnp.sum(key * mean[None, :], axis=1) * inverse_ref[entry, head, slots]


def _keys(
    block: jax.Array, head: jax.Array, entry: jax.Array, refs: list[Any], scaled: bool
) -> tuple[jax.Array, jax.Array]:
    """Keys [BLOCK,D] of a block as float32, 0 where not live, and which are live."""
    layer_ref, length_ref, key_ref, *scale_ref = refs
    where = (layer_ref[0], entry, pl.ds(block * BLOCK, BLOCK), head)
    live = block * BLOCK + jnp.arange(BLOCK) < length_ref[entry]
    mask = jnp.broadcast_to(live[:, None], (BLOCK, key_ref.shape[-1]))
    key = plgpu.load(key_ref.at[(*where, slice(None))], mask=mask, other=0).astype(jnp.float32)
    if scaled:
        key *= plgpu.load(scale_ref[0].at[where], mask=live, other=0.0)[:, None]
    return key, live
