"""The key-value cache of a stream: fixed buffers. Tokens are appended in place; on eviction survivors move into the free slots.

All layers share one set of buffers with a leading layer axis, which a scan over layers carries and updates in place. Slots [0,
length) are live. The first `anchor` of them hold the first frame and never move (InfiniteVGGT, arXiv 2601.02281, §3.2).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int8

from ivggt_jax.kernels import can_read
from ivggt_jax.kernels.moves import plan_moves


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


Moves = tuple[jax.Array, jax.Array, jax.Array]
"""A round of eviction, int32: length after it [batch], holes and movers [batch,head,most] (`kernels.moves.plan_moves`)."""


def plan(
    cache: KVCache,
    layer: Int[Array, ""],
    redundancy: Float[Array, "batch head slot"],
    budget: Int[Array, " batch"],
    anchor: int,
    most: int,
) -> Moves:
    """The next round that brings a layer nearer to `budget` [batch] tokens: in every head those of highest `redundancy` go.

    At most `most` go per head; among equally redundant tokens the lowest slot goes first. The first `anchor` slots always stay.
    """
    length, slot = cache.length[layer], jnp.arange(redundancy.shape[-1])
    target = jnp.clip(budget, length - most, length)
    candidates = ((slot >= anchor) & (slot < length[:, None]))[:, None]
    # NaN is evicted first. As it is, −NaN would rank below the −∞ of slots that are no candidates.
    ranked = jnp.where(candidates, jnp.where(jnp.isnan(redundancy), jnp.inf, redundancy), -jnp.inf)
    return target, *(plan_moves if can_read(cache.keys) else moves_by_sorting)(ranked, length, target, most)


def no_moves(cache: KVCache, layer: Int[Array, ""], most: int) -> Moves:
    """A round in which everything stays."""
    batch, slots, heads = cache.origin.shape[1:]
    nowhere = jnp.full((batch, heads, most), slots, jnp.int32)
    return cache.length[layer], nowhere, nowhere


def drop(
    cache: KVCache,
    layer: Int[Array, ""],
    redundancy: Float[Array, "batch head slot"],
    first: Moves,
    budget: Int[Array, " batch"],
    anchor: int,
) -> KVCache:
    """Evict from one layer down to `budget` [batch] tokens, in rounds of which the `first` is planned already.

    In steady state one round is enough; a layer whose budget falls faster takes several, with the same result. The first round
    is unconditional: on a GPU, deciding whether to run it would make the host wait for the device. If nothing goes, it moves
    nothing, which costs little.
    """
    batch, heads, most = first[1].shape
    entry, head = jnp.arange(batch)[:, None, None], jnp.arange(heads)

    def moved(cache: KVCache, moves: Moves) -> KVCache:
        length, hole, mover = moves[0], moves[1].transpose(0, 2, 1), moves[2].transpose(0, 2, 1)

        def move(rows: jax.Array) -> jax.Array:
            # All is read before anything is written. Otherwise XLA on a GPU does both in one kernel, and copies the cache for it.
            moving = lax.optimization_barrier(rows.at[layer, entry, mover, head].get(mode="clip"))
            return rows.at[layer, entry, hole, head].set(moving, mode="drop")

        return KVCache(
            keys=move(cache.keys),
            values=move(cache.values),
            origin=move(cache.origin),
            length=cache.length.at[layer].set(length),
            extra=jax.tree.map(move, cache.extra),
            scales=jax.tree.map(move, cache.scales),
        )

    def another_round(carry: tuple[KVCache, jax.Array, Moves]) -> tuple[KVCache, jax.Array, Moves]:
        cache, redundancy, (_, holes, movers) = carry
        replaced = jnp.take_along_axis(redundancy, movers, axis=2, mode="clip")
        redundancy = redundancy.at[entry, head[:, None], holes].set(replaced, mode="drop")
        moves = plan(cache, layer, redundancy, budget, anchor, most)
        return moved(cache, moves), redundancy, moves

    def unfinished(carry: tuple[KVCache, jax.Array, Moves]) -> jax.Array:
        return jnp.any(carry[0].length[layer] > budget)

    return lax.while_loop(unfinished, another_round, (moved(cache, first), redundancy, first))[0]


def moves_by_sorting(
    redundancy: Float[Array, "batch head slot"], length: Int[Array, " batch"], target: Int[Array, " batch"], most: int
) -> tuple[Int[Array, "batch head most"], Int[Array, "batch head most"]]:
    """`kernels.moves.plan_moves` in XLA. On a CPU, sorting the few that `lax.top_k` returns is fastest."""
    batch, heads, slots = redundancy.shape
    step = jnp.arange(most, dtype=jnp.int32)
    count, target = (length - target)[:, None, None], target[:, None, None]
    _, ranked = lax.top_k(redundancy, most)
    victims = jnp.where(step < count, ranked, slots)
    holes = jnp.sort(jnp.where(victims < target, victims, slots), axis=-1)
    tail = jnp.where(step < count, target + step, slots)
    entry, head = jnp.arange(batch)[:, None, None], jnp.arange(heads)[:, None]
    place = jnp.where(victims >= target, victims - target, most)
    gone = jnp.zeros((batch, heads, most), bool).at[entry, head, place].set(True, mode="drop")
    movers = jnp.sort(jnp.where(gone, slots, tail), axis=-1)
    return holes, movers
