"""How the number that a policy may store with every token is computed. Other policies run nothing of this."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ivggt_jax.memory.cache import KVCache
from ivggt_jax.memory.origin import places_after


def add_attention(
    cache: KVCache,
    layer: Int[Array, ""],
    query: Float[Array, "batch token head head_dim"],
    length: Int[Array, " batch"],
    where: Bool[Array, " batch"] | None = None,
) -> KVCache:
    """The cache, with the attention that a query pays to the first `length` [batch] tokens of a layer added to their number.

    query [batch,token,head,head_dim]; `where` [batch] bool: streams to update, None for all. A token receives the sum of its
    attention weights over all queries; the first sum replaces the −1 of a new token.
    """
    assert cache.extra is not None
    live = jnp.arange(cache.keys.shape[2]) < length[:, None]
    received = attention_received(query, cache.layer_keys(layer), live)
    learned = live if where is None else live & where[:, None]
    extra = jnp.where(learned[..., None], jnp.maximum(cache.extra[layer], 0) + received, cache.extra[layer])
    return replace(cache, extra=cache.extra.at[layer].set(extra))


def attention_received(
    query: Float[Array, "batch token head head_dim"],
    keys: Float[Array, "batch slot head head_dim"],
    live: Bool[Array, "batch slot"],
) -> Float[Array, "batch slot head"]:
    """Attention weights on keys [batch,slot,head,head_dim], summed over all queries: float32 [batch,slot,head].

    `live` [batch,slot]. Computed head by head, so that only [token,slot] weights exist at a time.
    """
    batch, slots, heads, head_dim = keys.shape

    def one_head(item: jax.Array) -> jax.Array:
        entry, head = item // heads, item % heads
        scores = query[entry, :, head] @ keys[entry, :, head].astype(query.dtype).T / math.sqrt(head_dim)
        scores = jnp.where(live[entry], scores.astype(jnp.float32), -jnp.inf)
        return jax.nn.softmax(scores, axis=-1).sum(0)

    received = lax.map(one_head, jnp.arange(batch * heads))
    return received.reshape(batch, heads, slots).transpose(0, 2, 1)


def store_residual(
    cache: KVCache,
    layer: Int[Array, ""],
    tokens: Float[Array, "batch token width"],
    change: Float[Array, "batch token width"],
    first: Int[Array, " batch"],
    frames: int,
) -> KVCache:
    """The cache, with the relative change ‖change‖/‖tokens‖ of the newest tokens stored, wherever eviction moved them.

    `tokens` and `change` [batch,token,width] are the tokens before the MLP of a layer's global block and what the MLP adds.
    `first` [batch] is the number of the first token; the others, of `frames` frames in all, follow it.
    """
    assert cache.extra is not None
    norm = jnp.maximum(jnp.linalg.norm(tokens.astype(jnp.float32), axis=-1), 1e-12)
    relative = jnp.linalg.norm(change.astype(jnp.float32), axis=-1) / norm
    batch, count = relative.shape
    place = places_after(cache.origin[layer], first[:, None, None], count // frames)
    own = relative[jnp.arange(batch)[:, None, None], jnp.clip(place, 0, count - 1)]
    extra = jnp.where(place < count, own, cache.extra[layer])
    return replace(cache, extra=cache.extra.at[layer].set(extra))
