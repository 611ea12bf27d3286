"""The one number that a policy may keep with every token: how it is learned. Nothing here runs for other policies."""

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
    """The cache with the attention that the first `length` [batch] tokens of a layer received from a query added.

    query [batch,token,head,head_dim]; `where` [batch] bool, the streams that learn of it, None for all. A token's mass is
    the sum of its weights over all queries; the first time replaces the −1 of a new token.
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
    """Float32 [batch,slot,head]: attention weights on keys [batch,slot,head,head_dim], summed over all queries.

    `live` [batch,slot]. One head after the other, so that no more than [token,slot] weights exist at a time.
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
    """The cache with the relative change ‖change‖/‖tokens‖ of the newest tokens, wherever eviction put them.

    `tokens` and `change` [batch,token,width]: before the MLP of a layer's global block, and what that adds; `first`
    [batch] is the number of the first of them, and the others', of so many `frames`, follow.
    """
    assert cache.extra is not None
    norm = jnp.maximum(jnp.linalg.norm(tokens.astype(jnp.float32), axis=-1), 1e-12)
    relative = jnp.linalg.norm(change.astype(jnp.float32), axis=-1) / norm
    batch, count = relative.shape
    place = places_after(cache.origin[layer], first[:, None, None], count // frames)
    own = relative[jnp.arange(batch)[:, None, None], jnp.clip(place, 0, count - 1)]
    extra = jnp.where(place < count, own, cache.extra[layer])
    return replace(cache, extra=cache.extra.at[layer].set(extra))
