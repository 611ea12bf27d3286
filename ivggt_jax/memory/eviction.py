"""What a stream does when a layer is over its budget: the policy chooses among the tokens that are not protected.

Protection follows from the frame's number alone; nothing is stored for it.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ivggt_jax.config import CacheConfig
from ivggt_jax.kernels import can_read
from ivggt_jax.kernels.diversity_in_place import diversity_in_place
from ivggt_jax.memory.cache import KVCache, drop
from ivggt_jax.memory.origin import Origin
from ivggt_jax.memory.policies import diversity, find_policy

PROTECTED = float(jnp.finfo(jnp.float32).min)
"""Redundancy of a protected token: it goes where nothing else may. Below it is the first frame's, −∞, which never goes."""
SHARE = 2
"""Protected special tokens take at most one in so many of the tokens that the anchors leave of a layer's budget."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Eviction:
    """How a stream's layers are brought down to their budgets when its newest frame has come."""

    config: CacheConfig = field(metadata={"static": True})
    """Its policy, what it protects, and the frames that share a pass."""
    tokens: int = field(metadata={"static": True})
    """Tokens of a frame (P)."""
    special_tokens: int = field(metadata={"static": True})
    """Camera and register tokens, the first of a frame."""
    newest: jax.Array
    """[batch] int32: number of the stream's newest frame, from 0."""

    def evict(
        self, cache: KVCache, layer: Int[Array, ""], budget: Int[Array, " batch"], score: Float[Array, " batch"]
    ) -> tuple[KVCache, Float[Array, " batch"]]:
        """Bring one layer down to `budget` [batch] tokens by dropping, in every head, the most redundant candidates.

        Candidates are all live tokens but the first frame's, where that is an anchor, and the protected ones; `budget`
        must have room for these. Returns the cache and the layer's score [batch]: the mean redundancy of all candidates
        before selection where something was evicted, the given `score` elsewhere.
        """
        length = cache.length[layer]
        slots, heads = cache.keys.shape[2:4]
        anchor = min(self.config.anchor_frames, 1) * self.tokens
        over = length > budget
        slot = jnp.arange(slots)
        live = slot < length[:, None]
        candidates = jnp.broadcast_to((live & (slot >= anchor))[:, None], (length.shape[0], heads, slots))
        kept = None
        if self.config.anchor_frames > 1 or self.config.protect_special:
            kept = protected(self.origin(cache, layer), budget, self.config.anchor_frames, self.config.protect_special)
            candidates &= ~kept

        def down(cache: KVCache) -> tuple[KVCache, jax.Array]:
            redundancy = self.redundancy(cache, layer, live, candidates)
            mean = jnp.where(candidates, redundancy, 0).sum((1, 2)) / jnp.maximum(candidates.sum((1, 2)), 1)
            redundancy = jnp.maximum(redundancy, PROTECTED / 2)
            if kept is not None:  # where even these have no room, some of them go
                redundancy = jnp.where(kept, PROTECTED, redundancy)
            most = min((1 + self.config.frames_per_step) * self.tokens, slots)
            return drop(cache, layer, redundancy, budget, anchor, most), jnp.where(over, mean, score)

        # A scalar predicate: streams that are all within their budget cost nothing here.
        return lax.cond(jnp.any(over), down, lambda cache: (cache, score), cache)

    def origin(self, cache: KVCache, layer: Int[Array, ""]) -> Origin:
        """Where the tokens of a layer come from."""
        return Origin(cache.origin[layer], self.newest, self.tokens, self.special_tokens)

    def redundancy(
        self,
        cache: KVCache,
        layer: Int[Array, ""],
        live: Bool[Array, "batch slot"],
        candidates: Bool[Array, "batch head slot"],
    ) -> Float[Array, "batch head slot"]:
        """What the policy says of a layer, float32 [batch,head,slot], for live [batch,slot] and candidates [batch,head,slot].

        Raises ValueError when it says it in another shape.
        """
        policy = find_policy(self.config.policy)
        if policy is diversity and can_read(cache.keys):
            scales = None if cache.scales is None else cache.scales[0]
            return diversity_in_place(cache.keys, layer, cache.length[layer], candidates, scales)
        extra = None if cache.extra is None else cache.extra[layer]
        redundancy = policy(cache.layer_keys(layer), live, candidates, self.origin(cache, layer), extra)
        if redundancy.shape != candidates.shape:
            raise ValueError(
                f"a policy must give a redundancy for every [batch, head, slot] = {list(candidates.shape)}, "
                f"not {list(redundancy.shape)}"
            )
        return redundancy.astype(jnp.float32)


def protected(
    origin: Origin, budget: Int[Array, " batch"], anchors: int, special: bool
) -> Bool[Array, "batch head slot"]:
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


def anchor_stride(frame: Int[Array, " batch"], anchors: int) -> Int[Array, " batch"]:
    """Anchors are the frames 0, s, 2s, … with this s, int32 [batch]: the least power of 2 for at most `anchors` of them.

    When the stream outgrows them every second one is let go and s doubles. So they are spread evenly over the stream so
    far, and a frame that is an anchor now was one from its beginning.
    """
    powers = jnp.arange(31)
    return 1 << jnp.sum((frame[:, None] >> powers) >= anchors, axis=-1)
