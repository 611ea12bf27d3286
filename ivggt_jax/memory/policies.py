"""Eviction policies: a policy gives every candidate token a redundancy, and eviction drops the highest.

A policy is a function of five arguments, or a `Storing` one, which needs a number stored with every token. Redundancies in [0, 1]
also divide the budget among the layers: their mean is a layer's score, and a higher score gets a smaller share.
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
[batch,head,slot] float32. Other slots than candidates may hold NaN, and their redundancy is ignored. `extra` is the number stored
with every token, float32 [batch,slot,head]; None for a policy that stores none."""

Extra = Literal["attention", "residual"]
"""What the stored number is. `attention`: the attention weight received from all queries since the token came; `residual`: the
relative change of the token by the MLP of its global block. Both are −1 until the token's own frame has passed the block."""


@dataclass(frozen=True)
class Storing:
    """A policy that needs a number stored with every token, at 4 bytes per slot and head.

    Raises ValueError for an unknown number.
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
        """Call `redundancy`."""
        return self.redundancy(keys, live, candidates, origin, extra)


def diversity(keys: Keys, live: Live, candidates: Candidates, origin: Any = None, extra: Any = None) -> Redundancy:
    """Cosine between a key and the mean of all candidates' normalised keys, per head (InfiniteVGGT, §3.2).

    Tokens close to the mean are redundant. Computed in float32 whatever the cache's type, without a normalised copy of the keys.
    """

    def one_head(keys: jax.Array, candidates: jax.Array) -> jax.Array:
        keys = jnp.where(live[..., None], keys, 0).astype(jnp.float32)
        inverse_norm = 1 / jnp.maximum(jnp.sqrt(jnp.square(keys).sum(-1)), 1e-12)
        weights = jnp.where(candidates, inverse_norm, 0)
        total = jnp.einsum("bs,bsd->bd", weights, keys, precision="highest")
        mean = total / jnp.maximum(candidates.sum(1), 1)[:, None]
        return jnp.einsum("bsd,bd->bs", keys, mean, precision="highest") * inverse_norm

    if platform() == "cpu":  # head by head: ten times faster on a CPU than all at once
        pick = partial(lax.dynamic_index_in_dim, keepdims=False)
        heads = lax.map(lambda h: one_head(pick(keys, h, 2), pick(candidates, h, 1)), jnp.arange(keys.shape[2]))
        return heads.swapaxes(0, 1)
    return jax.vmap(one_head, in_axes=(2, 1), out_axes=1)(keys, candidates)


def segment(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Any) -> Redundancy:
    """Age relative to the stream's: only the last frames stay (like the recurrence of Transformer-XL, arXiv 1901.02860)."""
    return _relative_age(origin).transpose(0, 2, 1)


def local_global(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Any) -> Redundancy:
    """A window of recent frames, and a longer one of camera and register tokens (Longformer, arXiv 2004.05150).

    Special tokens age slower in proportion to how few they are, so each window takes about half of the slots, and neither crowds
    out the other however long the stream.
    """
    slower = origin.special_tokens / origin.tokens
    age = _relative_age(origin)
    return jnp.where(origin.special, age * slower, age).transpose(0, 2, 1)


def random(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Any) -> Redundancy:
    """Uniform random numbers, new ones for each frame. They depend on the frame number alone, so runs repeat exactly."""
    drawn = jax.vmap(lambda frame: jax.random.fold_in(jax.random.key(0), frame))(origin.newest)
    return jax.vmap(lambda key: jax.random.uniform(key, candidates.shape[1:]))(drawn)


def frame(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Any) -> Redundancy:
    """Whole frames: the mean `diversity` redundancy of a frame's candidates, per head.

    Frames that differ from the others stay (after FrameVGGT, arXiv 2603.07690, which keeps complementary frames).
    """
    frames = origin.frame.transpose(0, 2, 1)
    by_head = jax.vmap(jax.vmap(_mean_by_group))
    return by_head(diversity(keys, live, candidates), frames, candidates)


def residual(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Numbers) -> Redundancy:
    """1 / (1 + change): tokens that the MLP hardly changed go first (after OVGGT, arXiv 2603.05959). New tokens stay."""
    return _falling(extra)


def attention(keys: Keys, live: Live, candidates: Candidates, origin: Origin, extra: Numbers) -> Redundancy:
    """1 / (1 + weight): tokens that received the least attention so far go first (H2O, arXiv 2306.14048). New tokens stay.

    For study only: accumulating the weights costs as much as attention itself.
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
    """The policy with a name, or the given function itself. Raises ValueError for an unknown name."""
    if callable(policy):
        return policy
    if policy not in POLICIES:
        raise ValueError(f"unknown policy {policy!r}; known: {', '.join(sorted(POLICIES))}; or give a function")
    return POLICIES[policy]


def stored_number(policy: Policy) -> Extra | None:
    """Which number a policy stores with every token; None: none."""
    return policy.extra if isinstance(policy, Storing) else None


def _relative_age(origin: Origin) -> jax.Array:
    """Age [batch,slot,head]: 0 for the newest frame, 1 for the stream's first."""
    newest = origin.newest[:, None, None]
    return (newest - origin.frame) / jnp.maximum(newest, 1)


def _falling(extra: jax.Array) -> jax.Array:
    """1 / (1 + number), [batch,head,slot]; 0 where the number is not known yet."""
    return jnp.where(extra < 0, 0, 1 / (1 + extra)).transpose(0, 2, 1)


def _mean_by_group(values: jax.Array, groups: jax.Array, where: jax.Array) -> jax.Array:
    """For each entry [slot] the mean of its group's values; only entries marked in `where` count."""
    order = jnp.argsort(groups)
    in_order = groups[order]
    starts = jnp.concatenate((jnp.zeros(1, bool), in_order[1:] != in_order[:-1]))
    label = jnp.zeros_like(order).at[order].set(jnp.cumsum(starts))
    total = jnp.zeros(values.shape).at[label].add(jnp.where(where, values, 0))
    count = jnp.zeros(values.shape).at[label].add(where)
    return (total / jnp.maximum(count, 1))[label]
