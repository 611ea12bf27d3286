"""One training step: a causal student follows an offline teacher, ground truth, or both (StreamVGGT, arXiv 2507.11539, §3.3)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ivggt_jax.config import HeadName, ModelConfig
from ivggt_jax.model.heads import HEADS
from ivggt_jax.model.parameters import Model, Params, cast
from ivggt_jax.model.vggt import Predictions, answered
from ivggt_jax.train.losses import LossConfig, guidance, objective
from ivggt_jax.train.mesh import divide, mean_over_devices
from ivggt_jax.train.optimizer import (
    OptimizerConfig,
    current_learning_rate,
    has_updated,
    make_optimizer,
    merge,
    partition,
    update_average,
    updates_made,
)

Batch = Mapping[str, jax.Array]
"""`images` [B,S,H,W,3] in [0,1] or uint8, `sensor_depth` [B,S,H,W] if the model takes it, and what the objective needs: see
`train.losses.objective`."""
Mode = Literal["offline", "causal"]
Terms = dict[str, jax.Array]

DENSE_HEADS = (*(name for name, head in HEADS.items() if head.activate is not None), "track_features")
"""Modules whose maps at image resolution take most of the memory of a backward pass."""


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What a training step computes. Raises ValueError for a loss whose head is not trained."""

    mode: Mode = "causal"
    """Attention of the student's global blocks: causal for a streaming student, offline for a teacher."""
    heads: tuple[HeadName, ...] = ("camera", "depth", "points")
    """Heads that the student predicts and is trained with. Tracks need query points in the batch."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the trunk; parameters, heads and the loss are float32."""
    rematerialise: Literal["none", "block", "full"] = "none"
    """What the backward pass recomputes instead of storing: nothing, the inside of each pair of aggregator blocks, or that of the
    dense heads too."""
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    def __post_init__(self) -> None:
        for name, head in (("relative", "camera"), ("log_depth", "depth")):
            if getattr(self.loss, name) > 0 and head not in self.heads:
                raise ValueError(f"step.loss.{name} is a loss of the head {head}, which step.heads lack")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a step is compiled for; static under jit."""

    step: StepConfig
    model: ModelConfig
    mesh: Mesh
    updates: int
    """Updates in the whole run, for the learning-rate schedule."""
    sensed: bool = False
    """Whether batches come with a sensor's depth."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes, and the frozen parameters. Float32."""

    step: jax.Array
    """[] int32: number of batches seen."""
    trainable: Params
    frozen: Params
    optimizer: optax.OptState
    average: Params | None
    """Moving average of the trainable parameters, if the optimiser keeps one."""


def init_state(plan: Plan, model: Model) -> TrainState:
    """The state before the first step, divided over the mesh, from a model of any precision. To be jitted.

    Heads that the step does not train, and a depth input without depth, are frozen, besides what the optimiser freezes, because
    weight decay alone would shrink them.
    """
    config = plan.step.optimizer
    unasked = [head for name, head in HEADS.items() if name in model.config.predicts and name not in plan.step.heads]
    others = [f"{part}/.*" for head in unasked for part in head.parts]
    if model.config.depth_input and not plan.sensed:
        others.append("aggregator/depth_patches/.*")
    trainable, frozen = partition(cast(model, jnp.float32).params, (*config.frozen, *others))
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        optimizer=make_optimizer(config, plan.updates).init(trainable),
        average=trainable if config.average_decay else None,
    )
    return divide(plan.mesh, state)


def student(plan: Plan, state: TrainState) -> Model:
    """The model to evaluate and to publish: the moving average if there is one."""
    return Model(plan.model, merge(state.trainable if state.average is None else state.average, state.frozen))


def train_step(plan: Plan, state: TrainState, batch: Batch, teacher: Model | None = None) -> tuple[TrainState, Terms]:
    """Process one batch: the gradient of the objective and one call of the optimiser. Pure; jit it with `plan` static.

    Returns the state and float32 scalars: every loss term, `loss`, `gradient_norm`, `learning_rate`. If the loss or the gradient
    is not finite, only the step number changes, so that one bad batch does not spoil a run.
    """
    config = plan.step.optimizer
    whole = (state.trainable, state.frozen, teacher)
    gradient, terms = mean_over_devices(plan.mesh, partial(differentiate, plan))(whole, batch)
    gradient = divide(plan.mesh, gradient)
    norm = optax.global_norm(gradient)
    rate = current_learning_rate(config, plan.updates, state.optimizer)
    updates, optimizer = make_optimizer(config, plan.updates).update(gradient, state.optimizer, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    average = state.average
    if average is not None and config.average_decay is not None:
        moved = update_average(average, trainable, config.average_decay, updates_made(optimizer))
        average = _choose(has_updated(optimizer), moved, average)
    finite = jnp.isfinite(terms["loss"]) & jnp.isfinite(norm)
    trainable, optimizer, average = _choose(
        finite, (trainable, optimizer, average), (state.trainable, state.optimizer, state.average)
    )
    state = TrainState(state.step + 1, trainable, state.frozen, optimizer, average)
    return divide(plan.mesh, state), terms | {"gradient_norm": norm, "learning_rate": rate}


def differentiate(plan: Plan, whole: tuple[Params, Params, Model | None], batch: Batch) -> tuple[Params, Terms]:
    """Gradient of the objective with respect to the trainable parameters, and its terms, for the clips of one device."""
    trainable, frozen, teacher = whole
    target = None
    if teacher is not None:
        taught = tuple(head for head in plan.step.heads if head in teacher.config.predicts)
        target = predict(replace(plan.step, heads=taught), teacher, batch, "offline")
    return jax.grad(partial(loss, plan), has_aux=True)(trainable, frozen, batch, target)


def loss(
    plan: Plan, trainable: Params, frozen: Params, batch: Batch, target: Predictions | None
) -> tuple[jax.Array, Terms]:
    """The objective and its terms. The trunk is cast here, so that gradients of float32 parameters are float32."""
    model = Model(plan.model, merge(trainable, frozen))
    prediction, outputs = _run(plan.step, model, batch, plan.step.mode)
    told = guidance(model, outputs, batch, plan.step.mode) if plan.step.loss.is_guided else None
    return objective(plan.step.loss, prediction, batch, target, guidance=told)


def predict(config: StepConfig, model: Model, batch: Batch, mode: Mode) -> Predictions:
    """Predictions for a batch's clips, with the trunk in the step's precision."""
    return _run(config, model, batch, mode)[0]


def _run(config: StepConfig, model: Model, batch: Batch, mode: Mode) -> tuple[Predictions, jax.Array]:
    """Predictions, and the layer outputs [layer,B,S,P,2·width] they were made from."""
    images = batch["images"]
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    network = cast(model, config.precision).network
    if config.rematerialise == "full":
        for name in filter(partial(hasattr, network), DENSE_HEADS):
            setattr(network, name, jax.checkpoint(getattr(network, name), static_argnums=(1, 2)))
    depth = batch.get("sensor_depth") if model.config.depth_input else None
    outputs, unit = network.see(images, mode, depth, remat=config.rematerialise != "none")
    queries = batch["query_points"] if "tracks" in config.heads else None
    height, width = images.shape[2:4]
    return answered(network.read(outputs, height, width, mode, config.heads, queries), unit, depth), outputs


def _choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
