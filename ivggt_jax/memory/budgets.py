"""How many tokens each layer may keep (InfiniteVGGT, §3.3): a softmax of the layers' diversity shares a total."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def layer_capacity(total: int, layers: int, factor: float | None, temperature: float) -> int:
    """Most tokens a layer can be given: `factor` times the mean share, or without a factor the largest share possible.

    The largest is that of a score of 0 among scores of 1: 1/(1+(L−1)·e^(−1/τ)) of the total.
    """
    if factor is not None:
        return min(math.ceil(factor * total / layers), total)
    return math.ceil(total / (1 + (layers - 1) * math.exp(-1 / temperature)))


def adaptive_total(scores: Float[Array, "batch layer"], least: int, most: int) -> Float[Array, " batch"]:
    """Total budget [batch] float32 from scores [batch,layer]: `most` where nothing repeats, `least` where all does.

    The scores' mean says how much of what is kept and of the newest frame is redundant; a stream that sees little new
    needs to keep less.
    """
    return least + (most - least) * (1 - _usable(scores).mean(-1))


def layer_budgets(
    scores: Float[Array, "batch layer"], total: int | Float[Array, " batch"], temperature: float, least: int, most: int
) -> tuple[Int[Array, "batch layer"], Int[Array, " batch"]]:
    """Budgets floor(total · softmax((1 − score)/τ)), int32 [batch,layer], from scores [batch,layer].

    Scores are cut to [0,1], which those of `diversity` never leave; NaN, of a broken stream, counts as 0. `total` is a
    number or [batch]; an infinite temperature gives all layers the same. Budgets are kept within [least, most]: what
    that takes from or gives to some layers is shared by the others in proportion. Also returns how many layers were
    clipped, int32 [batch].
    """
    total = jnp.reshape(jnp.asarray(total, jnp.float32), (-1, 1))
    # Not through logsumexp: that turns an exact 50,000 into 49,999.
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
    """Shares of `total` [batch,1] in proportion to `weights` but within [least, most].

    Fix the violations, share the rest, and again. Fixing only the side whose violations weigh more makes it exact;
    every round fixes at least one layer.
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
