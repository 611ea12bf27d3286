"""The key-value cache of a stream: fixed buffers. Tokens are appended in place; on eviction survivors move into the free slots.

All layers share one set of buffers with a leading layer axis, which a scan over layers carries and updates in place. Slots [0,
length) are live. The first `anchor` of them hold the first frame and never move (InfiniteVGGT, arXiv 2601.02281, §3.2).
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int8

from ivggt_jax.kernels import platform
from ivggt_jax.memory.largest import largest, places


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of all layers. Heads of one layer keep different tokens, but the same number."""

    keys: jax.Array
    """[layer, batch, slot, head, head_dim], after normalisation and rotation."""
    values: jax.Array
    """[layer, batch, slot, head, head_dim]"""
    origin: jax.Array
    """[layer, batch, slot, head] int32: number of the token (`memory.origin`). Moves with the key; stale in dead slots."""
    length: jax.Array
    """[layer, batch] int32: live slots."""
    extra: jax.Array | None = None
    """[layer, batch, slot, head] float32: the number that a policy stores with every token, −1 where it is not known yet."""
    scales: tuple[jax.Array, jax.Array] | None = None
    """Two of [layer, batch, slot, head] float32: scale factors of int8 keys and values. None for other types."""

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int, int], dtype: jnp.dtype, extra: bool = False) -> "KVCache":
        """An empty cache of shape [layer,batch,slot,head,head_dim]; `extra` makes room for a policy's number."""
        of_tokens, quantised = shape[:-1], jnp.issubdtype(dtype, jnp.integer)
        return cls(
            keys=jnp.zeros(shape, dtype),
            values=jnp.zeros(shape, dtype),
            origin=jnp.zeros(of_tokens, jnp.int32),
            length=jnp.zeros(shape[:2], jnp.int32),
            extra=jnp.zeros(of_tokens, jnp.float32) if extra else None,
            scales=(jnp.zeros(of_tokens, jnp.float32), jnp.zeros(of_tokens, jnp.float32)) if quantised else None,
        )

    def layer_keys(self, layer: Int[Array, ""]) -> Float[Array, "batch slot head head_dim"]:
        """Keys [batch, slot, head, head_dim] of one layer; int8 keys as float32."""
        keys = self.keys[layer]
        return keys if self.scales is None else keys * self.scales[0][layer][..., None]


def quantise(x: Float[Array, "*axes head_dim"]) -> tuple[Int8[Array, "*axes head_dim"], Float32[Array, "*axes"]]:
    """Vectors [...,head_dim] as int8, and the float32 scale [...] of each, which maps its largest entry to ±127."""
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(-1) / 127
    return jnp.round(x / jnp.maximum(scale, 1e-30)[..., None]).astype(jnp.int8), scale


def append(
    cache: KVCache,
    layer: Int[Array, ""],
    keys: Float[Array, "batch token head head_dim"],
    values: Float[Array, "batch token head head_dim"],
    origin: Int[Array, "batch token"],
) -> KVCache:
    """Append tokens to the live ones of one layer: keys, values [batch,token,head,head_dim], origin [batch,token].

    The buffers must have room for `length + tokens` slots.
    """
    batch, tokens, heads, _ = keys.shape
    entry = jnp.arange(batch)[:, None]
    slot = cache.length[layer][:, None] + jnp.arange(tokens)
    scales = None
    if cache.scales is not None:
        (keys, key_scale), (values, value_scale) = quantise(keys), quantise(values)
        scales = (
            cache.scales[0].at[layer, entry, slot].set(key_scale, mode="drop"),
            cache.scales[1].at[layer, entry, slot].set(value_scale, mode="drop"),
        )
    return KVCache(
        keys=cache.keys.at[layer, entry, slot].set(keys.astype(cache.keys.dtype), mode="drop"),
        values=cache.values.at[layer, entry, slot].set(values.astype(cache.values.dtype), mode="drop"),
        origin=cache.origin.at[layer, entry, slot].set(
            jnp.broadcast_to(origin[..., None], (batch, tokens, heads)), mode="drop"
        ),
        length=cache.length.at[layer].add(tokens),
        extra=None if cache.extra is None else cache.extra.at[layer, entry, slot].set(-1.0, mode="drop"),
        scales=scales,
    )


_Round = tuple[KVCache, jax.Array, jax.Array, jax.Array]
"""Cache after a round of eviction, redundancy before it [batch,head,slot], the round's holes and movers [batch,head,most]."""


def drop(
    cache: KVCache,
    layer: Int[Array, ""],
    redundancy: Float[Array, "batch head slot"],
    budget: Int[Array, " batch"],
    anchor: int,
    most: int,
) -> KVCache:
    """Evict from one layer down to `budget` [batch] tokens: in every head those of highest `redundancy` [batch,head,slot] go.

    Among equally redundant tokens the lowest slot goes first. The first `anchor` slots always stay. Tokens go in rounds of at
    most `most` per head, until every stream is within its budget. In steady state one round is enough; a layer whose budget falls
    faster takes several, with the same result. The first round is unconditional: on a GPU, deciding whether to run it would make
    the host wait for the device.
    """

    batch, heads, _ = redundancy.shape
    entry, head = jnp.arange(batch)[:, None, None], jnp.arange(heads)

    def one_round(cache: KVCache, redundancy: jax.Array) -> _Round:
        length = cache.length[layer]
        target = jnp.clip(budget, length - most, length)
        holes, movers = _plan_moves(redundancy, length, target, anchor, most)
        hole, mover = holes.transpose(0, 2, 1), movers.transpose(0, 2, 1)

        def move(rows: jax.Array) -> jax.Array:
            moving = rows.at[layer, entry, mover, head].get(mode="clip")
            return rows.at[layer, entry, hole, head].set(moving, mode="drop", unique_indices=False)

        cache = replace(
            cache,
            keys=move(cache.keys),
            values=move(cache.values),
            origin=move(cache.origin),
            length=cache.length.at[layer].set(target),
            extra=jax.tree.map(move, cache.extra),
            scales=jax.tree.map(move, cache.scales),
        )
        return cache, redundancy, holes, movers

    def another_round(carry: _Round) -> _Round:
        cache, redundancy, holes, movers = carry
        moved = jnp.take_along_axis(redundancy, movers, axis=2, mode="clip")
        return one_round(cache, redundancy.at[entry, head[:, None], holes].set(moved, mode="drop"))

    def unfinished(carry: _Round) -> jax.Array:
        return jnp.any(carry[0].length[layer] > budget)

    return lax.while_loop(unfinished, another_round, one_round(cache, redundancy))[0]


def _plan_moves(
    redundancy: Float[Array, "batch head slot"],
    length: Int[Array, " batch"],
    target: Int[Array, " batch"],
    anchor: int,
    most: int,
) -> tuple[Int[Array, "batch head most"], Int[Array, "batch head most"]]:
    """Which survivors move where when the `length − target` most redundant candidates go.

    Holes are the victims' slots in [anchor, target), movers the survivors in [target, length); each head has as many of either.
    Both are [batch, head, most], ascending, padded with the number of slots, which is past the end, so that those moves are
    dropped. On a CPU sorting the few that `lax.top_k` returns is fastest; on a GPU nothing is sorted.
    """
    batch, heads, slots = redundancy.shape
    slot, step = jnp.arange(slots), jnp.arange(most)
    candidates = (slot >= anchor) & (slot < length[:, None])
    # NaN is evicted first. As it is, −NaN would rank below the −∞ of slots that are no candidates.
    redundancy = jnp.where(jnp.isnan(redundancy), jnp.inf, redundancy)
    redundancy = jnp.where(candidates[:, None], redundancy, -jnp.inf)
    count, target = (length - target)[:, None, None], target[:, None, None]
    if platform() == "gpu":
        gone = largest(redundancy, jnp.broadcast_to(count[..., 0], (batch, heads)))
        moving = ~gone & (slot >= target) & (slot < target + count)
        holes, movers = places(jnp.stack([gone & (slot < target), moving]), most)
        return holes, movers

    _, ranked = lax.top_k(redundancy, most)
    victims = jnp.where(step < count, ranked, slots)
    holes = jnp.sort(jnp.where(victims < target, victims, slots), axis=-1)
    tail = jnp.where(step < count, target + step, slots)
    entry, head = jnp.arange(batch)[:, None, None], jnp.arange(heads)[:, None]
    place = jnp.where(victims >= target, victims - target, most)
    gone = jnp.zeros((batch, heads, most), bool).at[entry, head, place].set(True, mode="drop")
    movers = jnp.sort(jnp.where(gone, slots, tail), axis=-1)
    return holes, movers
