"""How many tokens each layer may keep (InfiniteVGGT, §3.3): a softmax over the layers' diversity divides the total budget."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def layer_capacity(total: int, layers: int, factor: float | None, temperature: float) -> int:
    """Most tokens a layer can be given: `factor` times the mean share; without a factor the largest share possible.

    The largest share is that of a score of 0 when all others are 1: 1/(1+(L−1)·e^(−1/τ)) of the total.
    """
    if factor is not None:
        return min(math.ceil(factor * total / layers), total)
    return math.ceil(total / (1 + (layers - 1) * math.exp(-1 / temperature)))


def adaptive_total(scores: Float[Array, "batch layer"], least: int, most: int) -> Float[Array, " batch"]:
    """Total budget [batch] float32 from scores [batch,layer]: `most` where nothing is redundant, `least` where everything is.

    The mean score says how redundant the cache and the newest frame are; a stream that sees little new can keep less.
    """
    return least + (most - least) * (1 - _usable(scores).mean(-1))


def layer_budgets(
    scores: Float[Array, "batch layer"], total: int | Float[Array, " batch"], temperature: float, least: int, most: int
) -> tuple[Int[Array, "batch layer"], Int[Array, " batch"]]:
    """Budgets floor(total · softmax((1 − score)/τ)), int32 [batch,layer], from scores [batch,layer].

    Scores are clipped to [0,1], a range that `diversity` never leaves; NaN, from a broken stream, counts as 0. `total` is a
    number or [batch]; an infinite temperature gives equal shares. Budgets are kept within [least, most], and the difference is
    shared among the other layers in proportion. Also returns how many layers were clipped, int32 [batch].
    """
    total = jnp.reshape(jnp.asarray(total, jnp.float32), (-1, 1))
    # Not with logsumexp, which turns an exact 50,000 into 49,999.
    logits = (1 - _usable(scores)) / temperature
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    shares = total * weights / weights.sum(-1, keepdims=True)
    clipped = jnp.sum((jnp.floor(shares) < least) | (jnp.floor(shares) > most), axis=-1, dtype=jnp.int32)
    limited = _share_within(shares, weights, total, least, most)
    return jnp.floor(jnp.where(clipped[:, None] > 0, limited, shares)).astype(jnp.int32), clipped


def _usable(scores: Float[Array, "batch layer"]) -> Float[Array, "batch layer"]:
    return jnp.clip(jnp.nan_to_num(scores.astype(jnp.float32)), 0, 1)


def _share_within(
    shares: Float[Array, "batch layer"],
    weights: Float[Array, "batch layer"],
    total: Float[Array, "any 1"],
    least: int,
    most: int,
) -> Float[Array, "batch layer"]:
    """Shares of `total` [batch,1], proportional to `weights` but within [least, most].

    Each round clips the shares out of range, fixes them and divides the rest again. Fixing only the side whose violations sum to
    more makes the result exact. Every round fixes at least one layer.
    """

    def one_round(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        shares, fixed = carry
        bounded = jnp.clip(shares, least, most)
        violation = jnp.where(fixed, 0, bounded - shares)
        excess = violation.sum(-1, keepdims=True)
        fix = jnp.where(excess > 0, violation > 0, jnp.where(excess < 0, violation < 0, violation != 0))
        shares = jnp.where(fix, bounded, shares)
        fixed = fixed | fix
        rest = total - jnp.where(fixed, shares, 0).sum(-1, keepdims=True)
        weight = jnp.where(fixed, 0, weights).sum(-1, keepdims=True)
        free = rest * weights / jnp.where(weight > 0, weight, 1)
        return jnp.where(fixed, shares, free), fixed

    shares, _ = lax.fori_loop(0, shares.shape[-1], one_round, (shares, jnp.zeros(shares.shape, bool)))
    return jnp.clip(shares, least, most)
