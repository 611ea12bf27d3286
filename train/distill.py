"""One training step: a causal student follows an offline teacher, ground truth, or both (StreamVGGT, arXiv 2507.11539, §3.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from ivggt_jax import Model, ModelConfig, Predictions
from ivggt_jax.model.parameters import Params, cast
from train.losses import LossConfig, objective
from train.optimizer import OptimizerConfig, make_optimizer, merge, partition, update_average

Batch = Mapping[str, jax.Array]
"""`images` [B,S,H,W,3] in [0,1] or uint8, and what the objective asks for: see `train.losses.objective`."""


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What a training step computes; static under jit."""

    mode: Literal["offline", "causal"] = "causal"
    """How the student's global attention runs: causal for a streaming student, offline for a teacher."""
    heads: tuple[str, ...] = ("camera", "depth", "points")
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the trunk; parameters, heads and the loss are float32."""
    rematerialise: Literal["none", "block", "full"] = "none"
    """What the backward pass computes again instead of keeping: nothing, the inside of every block, or all but the clip."""
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    updates: int = 1
    """Length of the run, for the learning-rate schedule."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes, and the frozen parameters. Float32."""

    step: jax.Array
    """[] int32: batches seen."""
    trainable: Params
    frozen: Params
    optimizer: optax.OptState
    average: Params | None
    """Moving average of the trainable parameters, where the optimiser keeps one."""


def init_state(config: StepConfig, model: Model) -> TrainState:
    """The state before the first step, from a model of any precision."""
    trainable, frozen = partition(cast(model, jnp.float32).params, config.optimizer.frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        optimizer=make_optimizer(config.optimizer, config.updates).init(trainable),
        average=jax.tree.map(jnp.copy, trainable) if config.optimizer.average_decay else None,
    )


def student(config: ModelConfig, state: TrainState) -> Model:
    """The model to evaluate and to ship: the moving average where there is one."""
    return Model(config, merge(state.trainable if state.average is None else state.average, state.frozen))


def train_step(
    config: StepConfig, model: ModelConfig, state: TrainState, batch: Batch, teacher: Model | None = None
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One batch: gradients of the objective, one call of the optimiser. Pure; jit it with the first two arguments static.

    Returns the state and float32 scalars: every loss term, `loss`, `gradient_norm`. The state stays as it was where the
    loss or the gradient is not finite: one bad batch must not spoil a run.
    """
    target = None if teacher is None else jax.lax.stop_gradient(predict(config, teacher, batch, "offline"))

    def loss_of(trainable: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        prediction = predict(config, Model(model, merge(trainable, state.frozen)), batch, config.mode)
        return objective(config.loss, prediction, batch, target)

    (loss, terms), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
    norm = optax.global_norm(gradient)
    optimizer = make_optimizer(config.optimizer, config.updates)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    average = state.average
    if average is not None and config.optimizer.average_decay is not None:
        average = update_average(average, trainable, config.optimizer.average_decay)
    changed = TrainState(state.step, trainable, state.frozen, optimizer_state, average)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), changed, state)
    state = TrainState(state.step + 1, state.trainable, state.frozen, state.optimizer, state.average)
    return state, terms | {"gradient_norm": norm}


def predict(config: StepConfig, model: Model, batch: Batch, mode: Literal["offline", "causal"]) -> Predictions:
    """A clip's predictions with the trunk in the step's precision."""
    trunk: DTypeLike = jnp.dtype(config.precision)
    images = batch["images"]
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    network = cast(model, trunk).network

    def forward(images: jax.Array) -> Predictions:
        return network.clip(
            images,
            mode=mode,
            heads=config.heads,
            query_points=batch.get("query_points"),
            remat=config.rematerialise != "none",
        )

    return jax.checkpoint(forward)(images) if config.rematerialise == "full" else forward(images)
