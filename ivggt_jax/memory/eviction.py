"""Eviction: when a layer is over its budget, the policy chooses among the tokens that are not protected.

What is protected follows from the frame number alone, so nothing is stored for it.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ivggt_jax.config import CacheConfig
from ivggt_jax.kernels import can_read
from ivggt_jax.kernels.diversity_in_place import diversity_in_place
from ivggt_jax.memory.cache import KVCache, Moves, drop, no_moves, plan
from ivggt_jax.memory.origin import Origin
from ivggt_jax.memory.policies import diversity, find_policy

PROTECTED = float(jnp.finfo(jnp.float32).min)
"""Redundancy of a protected token: it is evicted only if nothing else is left. The first frame's is −∞: it is never evicted."""
SHARE = 2
"""Protected special tokens take at most one in this many of the tokens that the anchors leave of a layer's budget."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Eviction:
    """Brings a stream's layers down to their budgets after its newest frame."""

    config: CacheConfig = field(metadata={"static": True})
    """Policy, protection and frames per pass."""
    tokens: int = field(metadata={"static": True})
    """Tokens of a frame (P)."""
    special_tokens: int = field(metadata={"static": True})
    """Camera and register tokens; they come first in a frame."""
    newest: jax.Array
    """[batch] int32: number of the stream's newest frame, from 0."""

    def evict(
        self, cache: KVCache, layer: Int[Array, ""], budget: Int[Array, " batch"], score: Float[Array, " batch"]
    ) -> tuple[KVCache, Float[Array, " batch"]]:
        """Bring one layer down to `budget` [batch] tokens by dropping the most redundant candidates in every head.

        Candidates are all live tokens except the first frame's, where it is an anchor, and the protected ones; `budget` must have
        room for these. Returns the cache and the layer's score [batch]: the mean redundancy of all candidates before eviction;
        without eviction, the given `score`.
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

        most = min((1 + self.config.frames_per_step) * self.tokens, slots)

        def judge(cache: KVCache) -> tuple[jax.Array, Moves, jax.Array]:
            redundancy = self.redundancy(cache, layer, live, candidates)
            counted = candidates & jnp.isfinite(redundancy)
            mean = jnp.where(counted, redundancy, 0).sum((1, 2)) / jnp.maximum(counted.sum((1, 2)), 1)
            redundancy = jnp.maximum(redundancy, PROTECTED / 2)
            if kept is not None:  # if they exceed the budget, some of them go too
                redundancy = jnp.where(kept, PROTECTED, redundancy)
            return redundancy, plan(cache, layer, redundancy, budget, anchor, most), jnp.where(over, mean, score)

        def spare(cache: KVCache) -> tuple[jax.Array, Moves, jax.Array]:
            return jnp.zeros(candidates.shape, jnp.float32), no_moves(cache, layer, most), score

        # A scalar condition: nothing is judged while all streams are within their budgets. The cache does not pass through it,
        # because XLA of JAX 0.10 would copy it on a GPU.
        redundancy, moves, score = lax.cond(jnp.any(over), judge, spare, cache)
        return drop(cache, layer, redundancy, moves, budget, anchor), score

    def origin(self, cache: KVCache, layer: Int[Array, ""]) -> Origin:
        """Origin of a layer's tokens."""
        return Origin(cache.origin[layer], self.newest, self.tokens, self.special_tokens)

    def redundancy(
        self,
        cache: KVCache,
        layer: Int[Array, ""],
        live: Bool[Array, "batch slot"],
        candidates: Bool[Array, "batch head slot"],
    ) -> Float[Array, "batch head slot"]:
        """The policy's redundancy for a layer, float32 [batch,head,slot]; live [batch,slot], candidates [batch,head,slot].

        Raises ValueError when the policy returns another shape.
        """
        policy = find_policy(self.config.policy)
        if policy is diversity and can_read(cache.keys):
            scales = None if cache.scales is None else cache.scales[0]
            return diversity_in_place(cache.keys, layer, cache.length[layer], candidates, scales)
        extra = None if cache.extra is None else cache.extra[layer]
        redundancy = jnp.asarray(policy(cache.layer_keys(layer), live, candidates, self.origin(cache, layer), extra))
        if redundancy.shape != candidates.shape:
            raise ValueError(
                f"a policy must give a redundancy for every [batch, head, slot] = {list(candidates.shape)}, "
                f"not {list(redundancy.shape)}"
            )
        return redundancy.astype(jnp.float32)


def protected(
    origin: Origin, budget: Int[Array, " batch"], anchors: int, special: bool
) -> Bool[Array, "batch head slot"]:
    """Protected tokens, bool [batch,head,slot]: those of anchor frames and, with `special`, special tokens of recent frames.

    `budget` [batch] is the layer's; `anchors` counts the first frame, which is never a candidate anyway. Special (camera and
    register) tokens are protected from the newest frame back until they take half of what the anchors leave of the budget, so
    protected tokens never fill it.
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
    """Anchors are the frames 0, s, 2s, … Returns s, int32 [batch]: the smallest power of 2 that gives at most `anchors` of them.

    When the stream outgrows its anchors, s doubles and every second one is released. So anchors are always spread evenly over the
    stream, and a frame that is an anchor now has been one from the start.
    """
    powers = jnp.arange(31)
    return 1 << jnp.sum((frame[:, None] >> powers) >= anchors, axis=-1)
