"""What makes a cached token dispensable. A policy gives every candidate a redundancy; eviction drops the highest.

A policy is a function of five arguments, or `Storing` one that also wants a number kept with every token. Redundancies
within [0, 1] also share the budget among the layers: their mean is a layer's score, and a higher score gets less.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ivggt_jax.kernels import platform
from ivggt_jax.memory.origin import Origin

Keys = Float[Array, "batch slot head head_dim"]
Live = Bool[Array, "batch slot"]
Candidates = Bool[Array, "batch head slot"]
Numbers = Float[Array, "batch slot head"]
Redundancy = Float[Array, "batch head slot"]

Policy = Callable[[Keys, Live, Candidates, Origin, Any], Redundancy]
"""(keys [batch,slot,head,head_dim], live [batch,slot], candidates [batch,head,slot], origin, extra) → redundancy
[batch,head,slot] float32. What it says of slots that are no candidates is ignored, and what those hold may be NaN.
`extra` is the number kept with every token, float32 [batch,slot,head], or None for a policy that asked for none."""

Extra = Literal["attention", "residual"]
"""What the number is. `attention`: the mass received from all queries since the token came; `residual`: the change that
the MLP of its global block made to the token, relative to it. Both −1 until the token's own frame is through the block."""


@dataclass(frozen=True)
class Storing:
    """A policy that wants a number kept with every token, and so 4 bytes more for each head's slot.

    Raises ValueError for a number that there is not.
    """

    redundancy: Policy
    extra: Extra

    def __post_init__(self) -> None:
        if not callable(self.redundancy) or self.extra not in get_args(Extra):
            raise ValueError(
                f"Storing takes a function and one of {', '.join(get_args(Extra))}, not {self.redundancy!r} and {self.extra!r}"
            )

    def __call__(
        self, keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Numbers | None
    ) -> Redundancy:
        """The redundancy."""
        return self.redundancy(keys, live, candidates, origin, extra)


def diversity(keys: Keys, live: Live, candidates: Candidates, origin: Any = None, extra: Any = None) -> Redundancy:
    """Cosine between a key and the mean of all candidates' normalised keys, per head (InfiniteVGGT, §3.2).

    Tokens close to the mean say what many others say. Float32 whatever the cache holds; no normalised copy of the keys.
    """

    def one_head(keys: jax.Array, candidates: jax.Array) -> jax.Array:
        keys = jnp.where(live[..., None], keys, 0).astype(jnp.float32)
        inverse_norm = 1 / jnp.maximum(jnp.sqrt(jnp.square(keys).sum(-1)), 1e-12)
        weights = jnp.where(candidates, inverse_norm, 0)
        total = jnp.einsum("bs,bsd->bd", weights, keys, precision="highest")
        mean = total / jnp.maximum(candidates.sum(1), 1)[:, None]
        return jnp.einsum("bsd,bd->bs", keys, mean, precision="highest") * inverse_norm

    if platform() == "cpu":  # one head after the other: ten times faster there than all at once
        pick = partial(lax.dynamic_index_in_dim, keepdims=False)
        heads = lax.map(lambda h: one_head(pick(keys, h, 2), pick(candidates, h, 1)), jnp.arange(keys.shape[2]))
        return heads.swapaxes(0, 1)
    return jax.vmap(one_head, in_axes=(2, 1), out_axes=1)(keys, candidates)


def segment(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Any) -> Redundancy:
    """Age over the stream's: only the last frames stay (the recurrence of Transformer-XL, arXiv 1901.02860)."""
    return _relative_age(origin).transpose(0, 2, 1)


def local_global(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Any) -> Redundancy:
    """A window of recent frames, and a longer one of camera and register tokens (Longformer, arXiv 2004.05150).

    Special tokens age slower by as much as they are fewer: each window takes about half of the slots, so neither crowds
    out the other however long the stream.
    """
    slower = origin.special_tokens / origin.tokens
    age = _relative_age(origin)
    return jnp.where(origin.special, age * slower, age).transpose(0, 2, 1)


def random(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Any) -> Redundancy:
    """Uniform numbers, others for every frame; a function of the frame's number alone, so runs repeat exactly."""
    drawn = jax.vmap(lambda frame: jax.random.fold_in(jax.random.key(0), frame))(origin.newest)
    return jax.vmap(lambda key: jax.random.uniform(key, candidates.shape[1:]))(drawn)


def frame(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Any) -> Redundancy:
    """Whole frames: the mean `diversity` redundancy of a frame's candidates, per head.

    Frames far from the others stay (after FrameVGGT, arXiv 2603.07690, which keeps complementary frames).
    """
    frames = origin.frame.transpose(0, 2, 1)
    by_head = jax.vmap(jax.vmap(_mean_by_group))
    return by_head(diversity(keys, live, candidates), frames, candidates)


def residual(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Numbers) -> Redundancy:
    """1 / (1 + change): tokens that the MLP hardly changed go first (after OVGGT, arXiv 2603.05959). New ones stay."""
    return _falling(extra)


def attention(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Numbers) -> Redundancy:
    """1 / (1 + mass): tokens that received least attention so far go first (H2O, arXiv 2306.14048). New ones stay.

    For study: weighing every token costs as much as attention itself.
    """
    return _falling(extra)


POLICIES: dict[str, Policy] = {
    "diversity": diversity,
    "segment": segment,
    "local_global": local_global,
    "random": random,
    "frame": frame,
    "residual": Storing(residual, "residual"),
    "attention": Storing(attention, "attention"),
}


def find_policy(policy: str | Policy) -> Policy:
    """The policy of a name, or the function itself. Raises ValueError for an unknown name."""
    if callable(policy):
        return policy
    if policy not in POLICIES:
        raise ValueError(f"unknown policy {policy!r}; known: {', '.join(sorted(POLICIES))}; or give a function")
    return POLICIES[policy]


def stored_number(policy: Policy) -> Extra | None:
    """What a policy wants to be kept with every token; None: nothing."""
    return policy.extra if isinstance(policy, Storing) else None


def _relative_age(origin: Origin) -> jax.Array:
    """[batch,slot,head]: 0 for the newest frame, 1 for the stream's first."""
    newest = origin.newest[:, None, None]
    return (newest - origin.frame) / jnp.maximum(newest, 1)


def _falling(extra: jax.Array) -> jax.Array:
    """[batch,head,slot]: 1 for a number of 0, falling with it; 0 where there is none yet."""
    return jnp.where(extra < 0, 0, 1 / (1 + extra)).transpose(0, 2, 1)


def _mean_by_group(values: jax.Array, groups: jax.Array, where: jax.Array) -> jax.Array:
    """For each entry the mean of its group's values, all [slot]; only those that `where` marks count."""
    order = jnp.argsort(groups)
    in_order = groups[order]
    starts = jnp.concatenate((jnp.zeros(1, bool), in_order[1:] != in_order[:-1]))
    label = jnp.zeros_like(order).at[order].set(jnp.cumsum(starts))
    total = jnp.zeros(values.shape).at[label].add(jnp.where(where, values, 0))
    count = jnp.zeros(values.shape).at[label].add(where)
    return (total / jnp.maximum(count, 1))[label]
