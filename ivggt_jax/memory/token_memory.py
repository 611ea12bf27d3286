"""The token cache as the network sees it while the next frames of its streams pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import jax
import jax.numpy as jnp

from ivggt_jax.kernels.attention import attend_layer
from ivggt_jax.memory.cache import KVCache, append
from ivggt_jax.memory.eviction import Eviction
from ivggt_jax.memory.policies import find_policy, stored_number
from ivggt_jax.memory.stored_numbers import add_attention, store_residual


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TokenMemory:
    """Keys and values of earlier frames, to which S frames of each stream are added (a `model.clip.TokenMemory`)."""

    cache: KVCache
    scores: jax.Array
    """[batch,layer] float32: mean redundancy at each layer's last eviction."""
    budgets: jax.Array | None
    """[batch,layer] int32: tokens that each layer may keep; None: all of them."""
    numbers: jax.Array
    """[batch,S·P] int32: which tokens come (`memory.origin`)."""
    eviction: Eviction
    where: jax.Array | None = None
    """[batch] bool: streams that take part, None for all. The others neither see nor remember the frames: what they
    attend to means nothing, and only slots behind their live tokens are written."""

    def attend(self, layer: jax.Array, query: jax.Array, keys: jax.Array, values: jax.Array) -> tuple[jax.Array, Self]:
        """Add keys and values [batch·S,P,head,head_dim] to a layer, and let each frame see itself and what lies before it.

        Before or after that, as configured, the layer is brought down to its budget.
        """
        config, tokens = self.eviction.config, self.eviction.tokens
        batch, frames = self.numbers.shape[0], self.numbers.shape[1] // tokens
        keys, values = (x.reshape(batch, frames * tokens, *x.shape[2:]) for x in (keys, values))
        query = query.reshape(batch, frames, tokens, *query.shape[2:])
        before = self.cache.length[layer]
        memory = replace(self, cache=append(self.cache, layer, keys, values, self.numbers))
        evict_first = not (config.evict_after_attention or config.frames_per_step > 1)
        if evict_first:
            memory = memory._within_budget(layer)
        attended = []
        for frame in range(frames):
            cache = memory.cache
            length = cache.length[layer] - (frames - 1 - frame) * tokens
            attended.append(attend_layer(query[:, frame], cache.keys, cache.values, layer, length, cache.scales))
            if self._stored == "attention":
                cache = add_attention(cache, layer, query[:, frame], length, self.where)
                memory = replace(memory, cache=cache)
        if not evict_first:
            memory = memory._within_budget(layer, after=attended)
        if self.where is not None:
            length = jnp.where(self.where, memory.cache.length[layer], before)
            memory = replace(memory, cache=replace(memory.cache, length=memory.cache.length.at[layer].set(length)))
        return jnp.stack(attended, axis=1).reshape(batch * frames, tokens, *keys.shape[2:]), memory

    def note(self, layer: jax.Array, x: jax.Array, change: jax.Array) -> Self:
        """Keep what a policy asks of the MLP's `change` to tokens `x`, both [batch·S,P,width]."""
        if self._stored != "residual":
            return self
        batch, count = self.numbers.shape
        x, change = (a.reshape(batch, count, -1) for a in (x, change))
        frames = count // self.eviction.tokens
        return replace(self, cache=store_residual(self.cache, layer, x, change, self.numbers[:, 0], frames))

    @property
    def _stored(self) -> str | None:
        return None if self.budgets is None else stored_number(find_policy(self.eviction.config.policy))

    def _within_budget(self, layer: jax.Array, after: Sequence[jax.Array] = ()) -> Self:
        """The memory with one layer brought down to its budget, once the arrays `after` are computed."""
        if self.budgets is None:
            return self
        budget = self.budgets[:, layer]
        if self.where is not None:
            budget = jnp.where(self.where, budget, self.cache.keys.shape[2])
        cache, score = self.eviction.evict(self.cache, layer, budget + _never(after), self.scores[:, layer])
        return replace(self, cache=cache, scores=self.scores.at[:, layer].set(score))


def _never(arrays: Sequence[jax.Array]) -> jax.Array | int:
    """0, which XLA does not know before it has the arrays.

    What depends on it comes after what reads the cache for them; XLA would copy a cache that is written at any time.
    """
    return sum(jnp.any(x > jnp.inf).astype(jnp.int32) for x in arrays)
