"""What a stream does when a layer is over its budget: the policy chooses among the tokens that are not protected.

Protection follows from the frame's number alone; nothing is stored for it.
"""

import jax
import jax.numpy as jnp

from ivggt_jax.config import CacheConfig
from ivggt_jax.kernels import can_read
from ivggt_jax.kernels.diversity_in_place import diversity_in_place
from ivggt_jax.memory.cache import KVCache, Measure, evict
from ivggt_jax.memory.origin import Origin
from ivggt_jax.memory.policies import Policy, diversity, find_policy

SHARE = 2
"""Of what the anchors leave of a layer's budget, protected special tokens take at most one in so many."""


def forget(
    cache: KVCache,
    scores: jax.Array,
    layer: jax.Array,
    budget: jax.Array,
    frame: jax.Array,
    config: CacheConfig,
    tokens: int,
    special_tokens: int,
) -> tuple[KVCache, jax.Array]:
    """The cache with one layer brought down to its budget [batch], and all layers' scores [batch,layer].

    `frame` [batch] is the number of the newest frame, of `tokens` tokens, the first `special_tokens` camera and registers.
    """
    kept = None
    if config.anchor_frames > 1 or config.protect_special:
        origin = Origin(cache.origin[layer], frame, tokens, special_tokens)
        kept = protected(origin, budget, config.anchor_frames, config.protect_special)
    measure = as_measure(find_policy(config.policy), frame, tokens, special_tokens)
    anchor = min(config.anchor_frames, 1) * tokens
    most = (1 + config.frames_per_step) * tokens
    cache, score = evict(cache, layer, budget, scores[:, layer], anchor, measure, kept, most)
    return cache, scores.at[:, layer].set(score)


def as_measure(policy: Policy, frame: jax.Array, tokens: int, special_tokens: int) -> Measure:
    """The policy as `evict` calls it, when `frame` [batch] is the newest, for frames of `tokens` tokens."""

    def measure(cache: KVCache, layer: jax.Array, live: jax.Array, candidates: jax.Array) -> jax.Array:
        if policy is diversity and can_read(cache.keys):
            scales = None if cache.scales is None else cache.scales[0]
            return diversity_in_place(cache.keys, layer, cache.length[layer], candidates, scales)
        origin = Origin(cache.origin[layer], frame, tokens, special_tokens)
        extra = None if cache.extra is None else cache.extra[layer]
        redundancy = policy(cache.layer_keys(layer), live, candidates, origin, extra)
        if redundancy.shape != candidates.shape:
            raise ValueError(
                f"a policy must give a redundancy for every [batch, head, slot] = {list(candidates.shape)}, "
                f"not {list(redundancy.shape)}"
            )
        return redundancy.astype(jnp.float32)

    return measure


def protected(origin: Origin, budget: jax.Array, anchors: int, special: bool) -> jax.Array:
    """Bool [batch,head,slot]: tokens of anchor frames, and with `special` camera and register tokens of recent frames.

    `budget` [batch] is that of the layer at hand; `anchors` counts the first frame, which is protected in any case. Camera
    and register tokens are protected from the newest frame back to as many as take half of what the anchors leave of the
    budget: protected tokens never fill it.
    """
    kept = jnp.zeros(origin.number.shape, bool)
    if anchors > 1:
        kept |= origin.frame % anchor_stride(origin.newest, anchors)[:, None, None] == 0
    if special:
        room = jnp.maximum(budget - anchors * origin.tokens, 0) // SHARE
        window = room // origin.special_tokens
        kept |= origin.special & (origin.frame > (origin.newest - window)[:, None, None])
    return kept.transpose(0, 2, 1)


def anchor_stride(frame: jax.Array, anchors: int) -> jax.Array:
    """Anchors are the frames 0, s, 2s, … with this s, int32 [batch]: the least power of 2 for at most `anchors` of them.

    When the stream outgrows them every second one is let go and s doubles. So they are spread evenly over the stream so
    far, and a frame that is an anchor now was one from its beginning.
    """
    powers = jnp.arange(31)
    return 1 << jnp.sum((frame[:, None] >> powers) >= anchors, axis=-1)
