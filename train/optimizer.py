"""The optimiser: AdamW or Muon with warm-up and cosine schedule, clipping, accumulation, and frozen groups.

Frozen parameters are in a separate dict, so that they have neither gradients nor optimiser state.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from ivggt_jax.model.parameters import Params, flatten, unflatten

FROZEN = ("aggregator/encoder/.*", "aggregator/camera_token", "aggregator/register_token")
"""Parameters that the published recipe keeps as in the teacher."""

NOT_DECAYED = ("bias", "scale", "scale1", "scale2")
"""Names of parameters without weight decay: vectors (biases, norms, LayerScale). The shapes of stacked blocks do not show
this."""

MATRICES = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
"""Axes of the kernels of stacked blocks [layer, in, out], which Muon makes orthogonal for each layer."""

MUON_RMS = 0.2
"""Root mean square of Muon's updates before the learning rate: about AdamW's, so that one rate fits both (2502.16982, §2.2)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Hyperparameters of the update; the defaults are StreamVGGT's. Raises ValueError for values that make no sense."""

    method: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon (arXiv 2502.16982) for the matrices of transformer blocks and AdamW for all other parameters."""
    learning_rate: float = 1e-5
    """Learning rate at the end of the warm-up."""
    final_learning_rate: float = 1e-7
    """Learning rate at the last update."""
    warmup: float = 0.05
    """Share of all updates over which the learning rate rises from 0."""
    beta1: float = 0.9
    """Decay of the mean gradient per update; Muon's is 0.95."""
    beta2: float = 0.95
    """Decay of the mean squared gradient per update."""
    weight_decay: float = 0.05
    """Weight decay on matrices, convolutions and learned tokens; never on biases, norms and LayerScale."""
    clip_norm: float = 1.0
    """Largest global norm of a gradient; longer ones are clipped. A huge number clips nothing."""
    accumulation: int = 1
    """Batches whose mean gradient makes one update."""
    frozen: tuple[str, ...] = FROZEN
    """Regular expressions that match whole "/"-joined parameter paths."""
    slower: tuple[tuple[str, float], ...] = ()
    """(regular expression, factor): matching parameters have this share of the learning rate."""
    average_decay: float | None = None
    """Decay of an exponential moving average of the trainable parameters, less in the first updates; None: no average."""

    def __post_init__(self) -> None:
        for name, bad in {
            "learning_rate": not self.learning_rate > 0,
            "final_learning_rate": not self.final_learning_rate >= 0,
            "beta1": not 0 <= self.beta1 < 1,
            "beta2": not 0 <= self.beta2 < 1,
            "weight_decay": not self.weight_decay >= 0,
            "clip_norm": not self.clip_norm > 0,
        }.items():
            if bad:
                raise ValueError(f"{name} {getattr(self, name)} makes no sense")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of all updates in [0, 1), not {self.warmup}")
        if self.accumulation < 1:
            raise ValueError(f"accumulation must be at least 1, not {self.accumulation}")
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise ValueError(f"average_decay must lie in (0, 1), not {self.average_decay}")
        for pattern, factor in self.slower:
            if not factor > 0:
                raise ValueError(f"the factor of slower {pattern!r} must be positive, not {factor}; frozen is for 0")


def partition(params: Params, patterns: Sequence[str]) -> tuple[Params, Params]:
    """Split nested parameters into trainable and frozen ones; those are frozen whose whole path matches a pattern.

    Raises ValueError when a pattern matches nothing, or nothing is left to train.
    """
    flat = flatten(params)
    for pattern in patterns:
        if not any(re.fullmatch(pattern, path) for path in flat):
            raise ValueError(f"frozen pattern {pattern!r} matches no parameter; paths look like {next(iter(flat))!r}")
    frozen = {path for path in flat if any(re.fullmatch(pattern, path) for pattern in patterns)}
    if len(frozen) == len(flat):
        raise ValueError(f"the frozen patterns {tuple(patterns)} leave nothing to train")
    return (
        unflatten({path: value for path, value in flat.items() if path not in frozen}),
        unflatten({path: value for path, value in flat.items() if path in frozen}),
    )


def merge(trainable: Params, frozen: Params) -> Params:
    """The inverse of `partition`."""
    return unflatten(flatten(trainable) | flatten(frozen))


def describe(trainable: Params, frozen: Params) -> str:
    """One line for people with the numbers of trained and frozen parameters."""
    trained, kept = (sum(value.size for value in jax.tree.leaves(tree)) for tree in (trainable, frozen))
    total = trained + kept
    return f"{trained:,} of {total:,} parameters are trained ({trained / total:.1%}), {kept:,} are frozen"


def learning_rate_schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Learning rate by update: linear from 0 during the warm-up, then a cosine to the final rate at the last update.

    Raises ValueError when there are no updates.
    """
    if updates < 1:
        raise ValueError(f"updates must be at least 1, not {updates}")
    warmup = config.warmup * updates
    cosine = optax.cosine_decay_schedule(
        config.learning_rate - config.final_learning_rate, max(updates - warmup, 1e-6)
    )  # fmt: skip

    def schedule(update: jax.Array) -> jax.Array:
        rising = config.learning_rate * update / max(warmup, 1e-6)
        return jnp.where(update < warmup, rising, config.final_learning_rate + cosine(update - warmup))

    return schedule


def make_optimizer(config: OptimizerConfig, updates: int) -> optax.GradientTransformationExtraArgs:
    """The gradient transformation for the trainable parameters, in a run of `updates` updates.

    With accumulation n, every n-th call changes the parameters, by the mean of the last n gradients.
    """
    rate = learning_rate_schedule(config, updates)
    rule = optax.adamw(rate, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay, mask=decay_mask)
    if config.method == "muon":
        muon = optax.contrib.muon(
            rate,
            weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=MATRICES,
            consistent_rms=MUON_RMS,
        )
        rule = optax.partition({"muon": muon, "adamw": rule}, _methods)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        rule,
        *(optax.masked(optax.scale(factor), partial(_matching, pattern)) for pattern, factor in config.slower),
    )
    if config.accumulation == 1:
        return optax.with_extra_args_support(optimizer)
    return optax.MultiSteps(optimizer, config.accumulation).gradient_transformation()


def current_learning_rate(config: OptimizerConfig, updates: int, state: optax.OptState) -> jax.Array:
    """The learning rate [] of the next update, from the optimiser's own count."""
    return learning_rate_schedule(config, updates)(updates_made(state))


def updates_made(state: optax.OptState) -> jax.Array:
    """[] int32: the optimiser's own count of its updates."""
    ((_, count), *_) = optax.tree_utils.tree_get_all_with_path(state, "count")
    return count


def has_updated(state: optax.OptState) -> jax.Array:
    """[] bool: whether the last call changed the parameters, rather than only accumulating its gradient."""
    return state.mini_step == 0 if isinstance(state, optax.MultiStepsState) else jnp.array(True)


def decay_mask(params: Params) -> Any:
    """Nested booleans: parameters with weight decay."""
    return unflatten({path: path.split("/")[-1] not in NOT_DECAYED for path in flatten(params)})


def _methods(params: Params) -> Any:
    """Nested names: "muon" for the kernels of stacked blocks, "adamw" for all other parameters."""
    stacked = {path: path.endswith("/kernel") and value.ndim == 3 for path, value in flatten(params).items()}
    return unflatten({path: "muon" if is_stacked else "adamw" for path, is_stacked in stacked.items()})


def _matching(pattern: str, params: Params) -> Any:
    """Nested booleans: parameters whose whole path matches a pattern. Raises ValueError when it matches nothing."""
    flat = {path: re.fullmatch(pattern, path) is not None for path in flatten(params)}
    if not any(flat.values()):
        raise ValueError(f"pattern {pattern!r} matches no trained parameter; paths look like {next(iter(flat))!r}")
    return unflatten(flat)


def update_average(average: Params, trainable: Params, decay: float, count: jax.Array) -> Params:
    """The exponential moving average after update number `count`, the first being 1.

    The decay is (1 + count) / (10 + count) until that exceeds `decay`, so that the average soon forgets where it began.
    """
    decay_now = jnp.minimum(decay, (1 + count) / (10 + count))
    return optax.incremental_update(trainable, average, 1 - decay_now)
