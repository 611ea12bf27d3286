"""What makes a cached token dispensable. A policy gives every candidate a redundancy; eviction drops the highest."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Policy = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
"""(keys [batch,slot,head,head_dim], live [batch,slot], candidates [batch,head,slot], origin [batch,slot,head])
→ redundancy [batch,head,slot] float32. What it says of slots that are no candidates is ignored."""


def diversity(keys: jax.Array, live: jax.Array, candidates: jax.Array, origin: jax.Array) -> jax.Array:
    """Cosine between a key and the mean of all candidates' normalised keys, per head (InfiniteVGGT, §3.2).

    Tokens close to the mean say what many others say. Float32 whatever the cache holds; no normalised copy of the keys.
    """
    keys = jnp.where(live[:, :, None, None], keys, 0).astype(jnp.float32)
    inverse_norm = 1 / jnp.maximum(jnp.sqrt(jnp.square(keys).sum(-1)), 1e-12)
    candidates = candidates.transpose(0, 2, 1)
    weights = jnp.where(candidates, inverse_norm, 0)
    mean = (keys * weights[..., None]).sum(1) / jnp.maximum(candidates.sum(1), 1)[..., None]
    cosine = (keys * mean[:, None]).sum(-1) * inverse_norm
    return cosine.transpose(0, 2, 1)


POLICIES: dict[str, Policy] = {"diversity": diversity}
