"""What a training step is said to hold: two frames of 28×28 through the tiny network, nothing computed."""

from dataclasses import replace

import numpy as np
import pytest

from ivggt_jax import ModelConfig
from ivggt_jax.model.parameters import abstract_params, flatten
from ivggt_jax.train.distill import StepConfig
from ivggt_jax.train.footprint import Options, count, main
from ivggt_jax.train.losses import LossConfig
from ivggt_jax.train.optimizer import OptimizerConfig

STEP = StepConfig(heads=("camera",), precision="float32")
OPTIONS = Options(model="tiny", frames=2, width=28, height=28, query_points=2, step=STEP)


def test_parameters_and_what_belongs_to_them_are_counted_once() -> None:
    """Two moments and three counters for the trained ones, in float32; the teacher's trunk is in the step's precision.

    The trunk is frozen, and so is every head but the camera's, which alone is asked for.
    """
    sizes = {path: int(np.prod(x.shape)) for path, x in flatten(abstract_params(ModelConfig.tiny())).items()}
    trunk = sum(size for path, size in sizes.items() if path.startswith("aggregator/"))
    optimizer = OptimizerConfig(frozen=("aggregator/.*",), average_decay=0.9)
    step = replace(STEP, precision="bfloat16", optimizer=optimizer)
    counted = count(replace(OPTIONS, step=step))
    trained = sum(size for path, size in sizes.items() if path.startswith("camera/"))
    kept = sum(sizes.values()) - trained
    assert counted["parameters, trained"] == counted["gradient"] == 4 * trained
    assert counted["parameters, frozen"] == 4 * kept
    assert 0 <= counted["optimizer state and average"] - 3 * 4 * trained <= 16
    assert counted["teacher"] == 2 * trunk + 4 * (sum(sizes.values()) - trunk)


def test_heads_that_the_model_learns_first_are_counted() -> None:
    heads = replace(STEP, heads=("camera", "depth", "motion"))
    assert count(replace(OPTIONS, step=heads))["parameters, trained"] > count(OPTIONS)["parameters, trained"]


def test_activations_grow_with_the_clips_and_fall_with_rematerialisation() -> None:
    """Four times the clips keep three times as many bytes or more: casts and tables do not grow."""
    one = count(OPTIONS)
    four = count(replace(OPTIONS, clips=4))
    block = count(replace(OPTIONS, clips=4, step=replace(STEP, rematerialise="block")))
    assert four["activations"] > 3 * one["activations"]
    assert four["activations"] > 1.5 * block["activations"]
    others = {name: size for name, size in four.items() if name != "activations"}
    assert others.items() <= one.items() and others.items() <= block.items()


def test_a_trunk_that_is_frozen_keeps_nothing() -> None:
    frozen = replace(STEP, optimizer=OptimizerConfig(frozen=("aggregator/.*",)))
    assert 2 * count(replace(OPTIONS, step=frozen))["activations"] < count(OPTIONS)["activations"]


def test_the_command_prints_the_sum(capsys: pytest.CaptureFixture[str]) -> None:
    """The step of a run from ground truth, without a teacher."""
    step = replace(STEP, heads=("camera", "depth"), loss=LossConfig(task_weight=1.0, distillation_weight=0.0))
    counted = count(replace(OPTIONS, step=step))
    assert counted["teacher"] == 0
    with pytest.raises(SystemExit) as left:
        main([
            "--model", "tiny", "--frames", "2", "--width", "28", "--height", "28", "--query-points", "2",
            "--step.heads", "camera", "depth", "--step.precision", "float32", "--step.rematerialise", "none",
            "--step.loss.task-weight", "1", "--step.loss.distillation-weight", "0",
        ])  # fmt: skip
    assert left.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].split() == [f"{sum(counted.values()) / 1e9:.2f}", "GB", "together"]
