"""The token cache as the network sees it while new frames pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ivggt_jax.kernels import can_read
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
    """[batch,layer] int32: tokens that each layer may keep; None: all."""
    numbers: jax.Array
    """[batch,S·P] int32: numbers of the new tokens (`memory.origin`)."""
    eviction: Eviction
    where: jax.Array | None = None
    """[batch] bool: streams that take part, None for all. The others neither see nor remember the frames: their outputs mean
    nothing, and only slots behind their live tokens are written."""

    def attend(
        self,
        layer: Int[Array, ""],
        query: Float[Array, "frame token head head_dim"],
        keys: Float[Array, "frame token head head_dim"],
        values: Float[Array, "frame token head head_dim"],
    ) -> tuple[Float[Array, "frame token head head_dim"], "TokenMemory"]:
        """Append keys and values [batch·S,P,head,head_dim] to a layer, and let each frame attend to itself and all before it.

        Before or after that, as configured, the layer is brought down to its budget, unless eviction waits for all layers
        (`settle`).
        """
        tokens = self.eviction.tokens
        batch, frames = self.numbers.shape[0], self.numbers.shape[1] // tokens
        keys, values = (x.reshape(batch, frames * tokens, *x.shape[2:]) for x in (keys, values))
        query = query.reshape(batch, frames, tokens, *query.shape[2:])
        before = self.cache.length[layer]
        memory = replace(self, cache=append(self.cache, layer, keys, values, self.numbers))
        if not self._evicts_after:
            memory = memory._within_budget(layer)
        attended = []
        for frame in range(frames):
            cache = memory.cache
            length = cache.length[layer] - (frames - 1 - frame) * tokens
            attended.append(attend_layer(query[:, frame], cache.keys, cache.values, layer, length, cache.scales))
            if self._stored == "attention":
                cache = add_attention(cache, layer, query[:, frame], length, self.where)
                memory = replace(memory, cache=cache)
        if self._evicts_after and not self._evicts_together:
            memory = memory._within_budget(layer, after=attended)
        if self.where is not None:
            length = jnp.where(self.where, memory.cache.length[layer], before)
            memory = replace(memory, cache=replace(memory.cache, length=memory.cache.length.at[layer].set(length)))
        return jnp.stack(attended, axis=1).reshape(batch * frames, tokens, *keys.shape[2:]), memory

    def note(
        self, layer: Int[Array, ""], x: Float[Array, "frame token width"], change: Float[Array, "frame token width"]
    ) -> "TokenMemory":
        """Store the relative change by the MLP, if the policy needs it; `x` and `change` are [batch·S,P,width]."""
        if self._stored != "residual":
            return self
        batch, count = self.numbers.shape
        x, change = (a.reshape(batch, count, -1) for a in (x, change))
        frames = count // self.eviction.tokens
        return replace(self, cache=store_residual(self.cache, layer, x, change, self.numbers[:, 0], frames))

    def settle(self) -> "TokenMemory":
        """Run the eviction that waited until all layers had attended.

        All layers are brought down at once, as if they were streams of one layer; their evictions are independent.
        """
        if self.budgets is None or not self._evicts_together:
            return self
        cache, budgets = self.cache, self.budgets
        layers, batch = cache.length.shape
        if self.where is not None:
            budgets = jnp.where(self.where[:, None], budgets, cache.keys.shape[2])
        together = jax.tree.map(lambda x: x.reshape(1, layers * batch, *x.shape[2:]), cache)
        eviction = replace(self.eviction, newest=jnp.tile(self.eviction.newest, layers))
        together, scores = eviction.evict(together, jnp.int32(0), budgets.T.reshape(-1), self.scores.T.reshape(-1))
        cache = jax.tree.map(lambda x, like: x.reshape(like.shape), together, cache)
        return replace(self, cache=cache, scores=scores.reshape(layers, batch).T)

    @property
    def _evicts_after(self) -> bool:
        """Whether a layer is brought down to its budget after its frames have attended instead of before."""
        return self.eviction.config.evict_after_attention or self.eviction.config.frames_per_step > 1

    @property
    def _evicts_together(self) -> bool:
        """Whether eviction waits until all layers have attended: the GPU then waits for the host twice per frame, not per layer.

        Only where kernels read the cache in place, because XLA would copy it. Not for `residual`, whose number is known only
        after the layer's eviction; waiting would reverse the order.
        """
        return self._evicts_after and self._stored != "residual" and can_read(self.cache.keys)

    @property
    def _stored(self) -> str | None:
        return None if self.budgets is None else stored_number(find_policy(self.eviction.config.policy))

    def _within_budget(self, layer: Int[Array, ""], after: Sequence[jax.Array] = ()) -> "TokenMemory":
        """The memory with one layer brought down to its budget, once the arrays `after` are computed."""
        if self.budgets is None:
            return self
        budget = self.budgets[:, layer]
        if self.where is not None:
            budget = jnp.where(self.where, budget, self.cache.keys.shape[2])
        cache, score = self.eviction.evict(self.cache, layer, budget + _never(after), self.scores[:, layer])
        return replace(self, cache=cache, scores=self.scores.at[:, layer].set(score))


def _never(arrays: Sequence[jax.Array]) -> jax.Array | int:
    """0, but XLA cannot know it before the arrays are computed.

    Whatever depends on it runs after the kernels that read the cache for those arrays. Without that order XLA would copy the
    cache before writing to it.
    """
    return sum(jnp.any(x > jnp.inf).astype(jnp.int32) for x in arrays)
