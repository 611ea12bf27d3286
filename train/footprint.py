"""`python -m ivggt_jax.train.footprint [options]`: memory of a training step in bytes, counted from shapes without computing.

It counts what must exist at once when the backward pass begins, not what a compiler adds while working on one part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.heads import HEADS
from ivggt_jax.model.parameters import Model, Params, abstract_params, cast
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.runs.command import run_command
from ivggt_jax.train.distill import Batch, Plan, StepConfig, TrainState, init_state, loss, predict
from ivggt_jax.train.mesh import make_mesh
from ivggt_jax.train.presets import PUBLISHED

MODELS = {"vggt_1b": ModelConfig.vggt_1b, "demo": ModelConfig.demo, "tiny": ModelConfig.tiny}


@dataclass(frozen=True, kw_only=True)
class Options:
    """One device's step; the defaults are the published recipe's."""

    model: Literal["vggt_1b", "demo", "tiny"] = "vggt_1b"
    """Architecture of student and teacher."""
    clips: int = 1
    """Clips on one device."""
    frames: int = 10
    """Frames of a clip."""
    width: int = 518
    """Width in pixels; like the height a multiple of the patch size."""
    height: int = 392
    query_points: int = 64
    """Number of points to track."""
    step: StepConfig = field(default_factory=lambda: PUBLISHED.step)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line program."""
    run_command(Options, report, arguments, "python -m ivggt_jax.train.footprint")


def report(options: Options) -> int:
    """Print the bytes that a training step holds, counted from shapes."""
    counted = count(options)
    for name, size in (counted | {"together": sum(counted.values())}).items():
        print(f"{size / 1e9:10.2f} GB  {name}")
    return 0


def count(options: Options) -> dict[str, int]:
    """Bytes by purpose. Activations are what the forward pass leaves for the backward pass.

    Attention counts as on this machine: without cuDNN and with rematerialise "none", its scores are stored.
    """
    config = MODELS[options.model]()
    config = replace(config, predicts=tuple(head for head in HEADS if head in {*config.predicts, *options.step.heads}))
    plan = Plan(step=options.step, model=config, mesh=make_mesh(devices=jax.devices()[:1]), updates=1)
    model = Model(plan.model, abstract_params(plan.model))
    state = jax.eval_shape(partial(init_state, plan), model)
    batch = _batch(options)
    teacher, target = None, None
    if options.step.loss.distillation_weight > 0:
        teacher = jax.eval_shape(partial(cast, trunk=options.step.precision), model)
        target = jax.eval_shape(partial(predict, options.step, mode="offline"), teacher, batch)
    return {
        "parameters, trained": _size(state.trainable),
        "parameters, frozen": _size(state.frozen),
        "optimizer state and average": _size((state.optimizer, state.average)),
        "gradient": _size(state.trainable),
        "teacher": _size(teacher),
        "activations": _kept(plan, state, batch, target),
    }


def _batch(options: Options) -> dict[str, Any]:
    """Shapes of everything that an objective may need."""
    pixels = (options.clips, options.frames, options.height, options.width)
    points = (options.clips, options.frames, options.query_points)
    shapes = {
        "images": ((*pixels, 3), jnp.uint8),
        "valid": (pixels, jnp.bool),
        "depth": (pixels, jnp.float32),
        "points": ((*pixels, 3), jnp.float32),
        "cam_from_world": ((*pixels[:2], 3, 4), jnp.float32),
        "intrinsics": ((*pixels[:2], 3, 3), jnp.float32),
        "query_points": ((options.clips, options.query_points, 2), jnp.float32),
        "tracks": ((*points, 2), jnp.float32),
        "visibility": (points, jnp.bool),
    }
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}


def _kept(plan: Plan, state: TrainState, batch: Batch, target: Predictions | None) -> int:
    """Bytes of the arrays that the derivative of the loss closes over, without those that exist anyway."""

    def derivative(trainable: Params, *others: Any) -> Any:
        return jax.vjp(lambda trainable: loss(plan, trainable, *others)[0], trainable)[1]

    program = jax.make_jaxpr(derivative)(state.trainable, state.frozen, batch, target).jaxpr
    there = {id(variable) for variable in program.invars}
    kept = {id(variable): variable.aval for variable in program.outvars if id(variable) not in there}
    return _size(list(kept.values()))


def _size(tree: Any) -> int:
    return sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


if __name__ == "__main__":
    main()
