"""Attention functions. How they compute (dense, in chunks, with cuDNN or our kernel) depends on platform, type and size."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from ivggt_jax.kernels import can_read, platform
from ivggt_jax.kernels.attention_in_place import Carry, attend_in_place

CHUNK = 512
"""Keys per step of the online softmax; cache buffers are a multiple of it."""
SCORES_OF_A_HEAD = 1 << 21
"""Scores of a head up to which a clip's keys are processed in one chunk: 8 MB in float32."""
DENSE_SCORES = 1 << 22
"""Scores of a clip up to which all are held at once, which suits derivatives."""
DENSE_SCORES_OF_A_STREAM = 1 << 14
"""The same for a stream. It is low because chunks are already faster there, and skip those past the live keys."""
DENSE_SCORES_ON_GPU = 1 << 27
"""The same on a GPU: half a gigabyte in float32, enough for a batch of the demo model's clips."""


def attend(query: jax.Array, keys: jax.Array, values: jax.Array, length: jax.Array | None = None) -> jax.Array:
    """Scaled dot-product attention, softmax(q·kᵀ/√d)·v.

    query [B,Q,H,D], keys and values [B,K,H,D] → [B,Q,H,D] in the query's dtype. With `length` [B], int32, only the first `length`
    keys of each batch entry are seen; the others have no influence, even if NaN.
    """
    return attend_layer(query, keys[None], values[None], 0, length)


def attend_layer(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    layer: int | jax.Array,
    length: jax.Array | None,
    scales: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """`attend` to one layer of stacked keys and values [layer,B,K,H,D], without copying the layer if possible.

    `scales`, two of [layer,B,K,H], multiply keys and values, chunk by chunk if attention runs in chunks.
    """
    batch, queries, heads, head_dim = query.shape
    slots = keys.shape[2]
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    if query.dtype == jnp.bfloat16 and keys.dtype in (jnp.bfloat16, jnp.int8) and length is not None and can_read(keys):
        return attend_in_place(query, keys, values, layer, length, scales)
    on_gpu = platform() == "gpu"
    cudnn = on_gpu and half and head_dim % 8 == 0 and head_dim <= 128
    most = DENSE_SCORES_ON_GPU if on_gpu else DENSE_SCORES if length is None else DENSE_SCORES_OF_A_STREAM
    if not cudnn and batch * queries * heads * slots > most:
        return _chunked(query, keys, values, layer, length, scales)
    keys, values = keys[layer], values[layer]
    if scales is not None:
        keys, values = (
            (x * scale[layer][..., None]).astype(query.dtype) for x, scale in zip((keys, values), scales, strict=True)
        )
    live = None if length is None else jnp.arange(slots) < length[:, None]
    return _cudnn(query, keys, values, live) if cudnn else attend_masked(query, keys, values, live)


def attend_causal(query: jax.Array, keys: jax.Array, values: jax.Array, frames: int) -> jax.Array:
    """Block-causal attention over a clip: tokens of frame t see all tokens of frames ≤ t.

    All arguments are [B, frames·P, H, D]. Each frame's queries attend to a static prefix of the keys, which needs no mask and
    half the work. With a single token per frame this would be many tiny products, so a mask is used.
    """
    tokens = query.shape[1] // frames
    if tokens == 1:
        return jax.nn.dot_product_attention(query, keys, values, is_causal=True, implementation="xla")
    parts = [
        attend(query[:, t * tokens : (t + 1) * tokens], keys[:, : (t + 1) * tokens], values[:, : (t + 1) * tokens])
        for t in range(frames)
    ]
    return jnp.concatenate(parts, axis=1)


def attend_masked(query: jax.Array, keys: jax.Array, values: jax.Array, live: jax.Array | None) -> jax.Array:
    """`attend` with all scores held at once, to the keys that `live` [B,K] marks (None: all)."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys.astype(query.dtype), preferred_element_type=jnp.float32)
    scores /= math.sqrt(query.shape[-1])
    if live is not None:
        scores = jnp.where(live[:, None, None, :], scores, -jnp.inf)
        values = jnp.where(live[:, :, None, None], values, 0)
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(query.dtype), values.astype(query.dtype))


def attend_once(query: jax.Array, keys: jax.Array, values: jax.Array, live: jax.Array) -> jax.Array:
    """`attend_masked` for a single query [B,1,H,D]. Heads stay innermost, because matrices of one row would be slow."""
    scores = jnp.einsum("bhd,bkhd->bkh", query[:, 0], keys) / math.sqrt(query.shape[-1])
    weights = jax.nn.softmax(jnp.where(live[..., None], scores, -jnp.inf), axis=1)
    return jnp.einsum("bkh,bkhd->bhd", weights, jnp.where(live[..., None, None], values, 0))[:, None]


def _cudnn(query: jax.Array, keys: jax.Array, values: jax.Array, live: jax.Array | None) -> jax.Array:
    keys, values = keys.astype(query.dtype), values.astype(query.dtype)
    lengths = None
    if live is not None:
        # cuDNN does not promise to ignore the other keys. The layer is copied for it anyway.
        keys, values = (jnp.where(live[..., None, None], x, 0) for x in (keys, values))
        keys_seen = live.sum(1, dtype=jnp.int32)
        lengths = (keys_seen, jnp.full_like(keys_seen, query.shape[1]))
    return jax.nn.dot_product_attention(
        query,
        keys,
        values,
        key_value_seq_lengths=None if lengths is None else lengths[0],
        query_seq_lengths=None if lengths is None else lengths[1],
        implementation="cudnn",
    )


def _keys_at_once(queries: int, slots: int, cached: bool) -> int:
    """Keys per chunk, so that all have equal size. Of a cache few, because much of its last chunk is dead slots."""
    most = CHUNK if cached else max(CHUNK, SCORES_OF_A_HEAD // queries)
    return -(-slots // -(-slots // most))


def _chunked(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    layer: int | jax.Array,
    length: jax.Array | None,
    scales: tuple[jax.Array, jax.Array] | None,
) -> jax.Array:
    """Online softmax over chunks of keys (arXiv 2205.14135). With `length`, chunks past the live keys are skipped.

    The number of chunks is then known at run time only, and a loop of that kind has no reverse-mode derivatives: these are
    taken of the loop over all chunks, which gives the same numbers.
    """
    over_all, over_live = partial(_over_chunks, False), jax.custom_jvp(partial(_over_chunks, True))
    arguments = (query, (keys, values, scales), jnp.asarray(layer, jnp.int32), length)
    if length is None:
        return over_all(*arguments)
    over_live.defjvp(lambda primals, tangents: jax.jvp(over_all, primals, tangents))
    return over_live(*arguments)


def _over_chunks(
    skip: bool,
    query: jax.Array,
    cached: tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array] | None],
    layer: jax.Array,
    length: jax.Array | None,
) -> jax.Array:
    """`_chunked`; except on a GPU, one (batch entry, head) after the other.

    On a CPU successive large matrix products are several times faster than a batch of them.
    """
    keys, values, scales = cached
    batch, queries, heads, head_dim = query.shape
    slots = keys.shape[2]
    chunk = _keys_at_once(queries, slots, cached=length is not None)
    heads_at_once = heads if platform() == "gpu" else 1
    scaled = query * jnp.asarray(1 / math.sqrt(head_dim), query.dtype)

    def one_head(item: jax.Array) -> jax.Array:
        entry, head = item // heads, item % heads
        rows = lax.dynamic_slice(scaled, (entry, 0, head, 0), (1, queries, 1, head_dim))[0, :, 0]
        live = slots if length is None else length[entry]

        def step(index: jax.Array, carry: Carry, whole: bool) -> Carry:
            maximum, total, output = carry
            # The last chunk of an uneven buffer starts early; slots that the previous chunk has seen are masked.
            start = jnp.minimum(index * chunk, slots - chunk)
            where = (layer, entry, start, head, 0)
            key, value = (lax.dynamic_slice(x, where, (1, 1, chunk, 1, head_dim))[0, 0, :, 0] for x in (keys, values))
            if scales is not None:
                key, value = (
                    x * lax.dynamic_slice(scale, where[:-1], (1, 1, chunk, 1)).reshape(chunk, 1)
                    for x, scale in zip((key, value), scales, strict=True)
                )
            key, value = key.astype(query.dtype), value.astype(query.dtype)
            scores = jnp.dot(rows, key.T, preferred_element_type=jnp.float32)
            if not whole:
                slot = start + jnp.arange(chunk)
                seen = (slot >= index * chunk) & (slot < live)
                scores, value = jnp.where(seen, scores, -jnp.inf), jnp.where(seen[:, None], value, 0)
            new_maximum = jnp.maximum(maximum, scores.max(-1, keepdims=True))
            weights = jnp.exp(scores - new_maximum)
            shrink = jnp.exp(maximum - new_maximum)
            part = jnp.dot(weights.astype(query.dtype), value, preferred_element_type=jnp.float32)
            return new_maximum, total * shrink + weights.sum(-1, keepdims=True), output * shrink + part

        start = (
            jnp.full((queries, 1), -1e30, jnp.float32),
            jnp.zeros((queries, 1), jnp.float32),
            jnp.zeros((queries, head_dim), jnp.float32),
        )
        trips = (live + chunk - 1) // chunk if skip else -(-slots // chunk)
        whole = 0 if length is not None and not skip else live // chunk  # chunks that need no mask
        carry = lax.fori_loop(0, whole, partial(step, whole=True), start)
        _, total, output = lax.fori_loop(whole, trips, partial(step, whole=False), carry)
        return (output / total).astype(query.dtype)

    result = lax.map(one_head, jnp.arange(batch * heads), batch_size=heads_at_once if heads_at_once > 1 else None)
    return result.reshape(batch, heads, queries, head_dim).transpose(0, 2, 1, 3)
