"""The token cache as the network sees it while the next frames of its streams pass."""

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
    """[batch,layer] int32: tokens that each layer may keep; None: all of them."""
    numbers: jax.Array
    """[batch,S·P] int32: which tokens come (`memory.origin`)."""
    eviction: Eviction
    where: jax.Array | None = None
    """[batch] bool: streams that take part, None for all. The others neither see nor remember the frames: what they
    attend to means nothing, and only slots behind their live tokens are written."""

    def attend(
        self,
        layer: Int[Array, ""],
        query: Float[Array, "frame token head head_dim"],
        keys: Float[Array, "frame token head head_dim"],
        values: Float[Array, "frame token head head_dim"],
    ) -> tuple[Float[Array, "frame token head head_dim"], "TokenMemory"]:
        """Add keys and values [batch·S,P,head,head_dim] to a layer, and let each frame see itself and what lies before it.

        Before or after that, as configured, the layer is brought down to its budget, if it is not to wait for the others.
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
        """Keep what a policy asks of the MLP's `change` to tokens `x`, both [batch·S,P,width]."""
        if self._stored != "residual":
            return self
        batch, count = self.numbers.shape
        x, change = (a.reshape(batch, count, -1) for a in (x, change))
        frames = count // self.eviction.tokens
        return replace(self, cache=store_residual(self.cache, layer, x, change, self.numbers[:, 0], frames))

    def settle(self) -> "TokenMemory":
        """The memory within its budgets, when all layers have attended: what could wait until then is done now.

        All layers are brought down at once, as if they were so many streams of one layer: nothing of this depends on others.
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
        """Whether a layer is brought down to its budget after its frames have attended, not before."""
        return self.eviction.config.evict_after_attention or self.eviction.config.frames_per_step > 1

    @property
    def _evicts_together(self) -> bool:
        """Whether layers wait for each other: then a frame asks the host twice, not twice for each layer.

        Only where kernels read the cache in place: XLA would copy it. And not where a policy's number is known only after
        the layer's eviction: it would come before.
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
    """0, which XLA does not know before it has the arrays.

    What depends on it comes after what reads the cache for them; XLA would copy a cache that is written at any time.
    """
    return sum(jnp.any(x > jnp.inf).astype(jnp.int32) for x in arrays)
