"""A training step: its gradients, what it leaves alone, accumulation, averages, precision and memory.

A network of 100,000 parameters on clips of noise (3 frames of 28×28), float32 unless said otherwise. Nothing here runs
for long, so nothing is compiled to run fast.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_training import SMALL, clips, random_model

import ivggt_jax.model.vggt
from ivggt_jax import Model
from ivggt_jax.model.parameters import flatten, unflatten
from ivggt_jax.train.distill import Plan, StepConfig, TrainState, differentiate, init_state, predict, train_step
from ivggt_jax.train.losses import LossConfig
from ivggt_jax.train.losses.motion import motion_loss
from ivggt_jax.train.losses.task import task_losses
from ivggt_jax.train.mesh import make_mesh
from ivggt_jax.train.optimizer import OptimizerConfig
from ivggt_jax.train.start import extended

ALL_HEADS = ("camera", "depth", "points", "tracks")
GROUPS = (
    "aggregator/encoder", "aggregator/camera_token", "aggregator/register_token", "aggregator/frame_blocks",
    "aggregator/global_blocks", "camera", "depth", "track_features", "tracker",
)  # fmt: skip
COARSE = {"xla_backend_optimization_level": 0}
RATE, DECAY = 1e-3, 0.9
Step = Callable[[TrainState, dict], tuple[TrainState, dict[str, jax.Array]]]


def make_plan(**changes: Any) -> Plan:
    """Camera and depth from ground truth; changes: fields of StepConfig, OptimizerConfig or LossConfig."""
    defaults = {
        "heads": ("camera", "depth"), "precision": "float32", "task_weight": 1.0, "distillation_weight": 0.0,
        "learning_rate": RATE, "warmup": 0.0,
    }  # fmt: skip
    parts = []
    for config in (LossConfig, OptimizerConfig, StepConfig):
        names = {field.name for field in dataclasses.fields(config)}
        parts.append({name: value for name, value in (defaults | changes).items() if name in names})
    step = StepConfig(**parts[2], loss=LossConfig(**parts[0]), optimizer=OptimizerConfig(**parts[1]))
    return Plan(step=step, model=SMALL, mesh=make_mesh(), updates=10)


@partial(jax.jit, static_argnums=0, compiler_options=COARSE)
def begin(plan: Plan, model: Model) -> TrainState:
    return init_state(plan, model)


def make_step(plan: Plan) -> Step:
    return jax.jit(partial(train_step, plan), compiler_options=COARSE)


def gradient_of(plan: Plan, model: Model, teacher: Model | None = None) -> Callable[[dict, dict], Any]:
    """The gradient by all parameters, and the terms, as a function of parameters and batch."""
    return jax.jit(lambda params, batch: differentiate(plan, (params, {}, teacher), batch), compiler_options=COARSE)


def take(batch: dict, rows: slice) -> dict:
    return {name: array[rows] for name, array in batch.items()}


def distance(a: Any, b: Any) -> float:
    """Of two trees, relative to the second's size."""
    return float(optax.global_norm(jax.tree.map(jnp.subtract, a, b)) / optax.global_norm(b))


@pytest.fixture(scope="session")
def model() -> Model:
    return random_model(0)


@pytest.fixture(scope="session")
def averaging() -> tuple[Plan, Step]:
    """A step on four clips that keeps a moving average."""
    plan = make_plan(average_decay=DECAY)
    return plan, make_step(plan)


@pytest.mark.slow
def test_gradients_agree_with_finite_differences(model: Model) -> None:
    """By every group of parameters, with both objectives, to 3 %. The point head is a depth head of three channels."""
    teacher = random_model(1)
    plan = make_plan(heads=("camera", "depth", "tracks"), distillation_weight=1.0, frozen=())
    gradient_at = gradient_of(plan, model, teacher)
    batch = clips(0, count=1)
    gradient = flatten(gradient_at(model.params, batch)[0])
    assert {path for path, x in gradient.items() if x.dtype != jnp.float32} == set()
    for group in GROUPS:
        direction = {path: x if f"{path}/".startswith(f"{group}/") else 0 * x for path, x in gradient.items()}
        slope = float(optax.global_norm(direction))
        assert slope > 0.01, group

        def loss(move: float, direction: dict = direction, slope: float = slope) -> float:
            moved = {path: x + move / slope * direction[path] for path, x in flatten(model.params).items()}
            return float(gradient_at(unflatten(moved), batch)[1]["loss"])

        move = min(2e-3, 0.02 / slope)  # The loss is about 200: it changes by a thousand times its rounding.
        assert (loss(move) - loss(-move)) / (2 * move) == pytest.approx(slope, rel=0.03), group


@pytest.mark.slow
def test_accumulation_of_four_equals_a_batch_of_four(model: Model, averaging: tuple[Plan, Step]) -> None:
    whole_plan, whole_step = averaging
    plan = make_plan(average_decay=DECAY, accumulation=4)
    step, batch = make_step(plan), clips(0)
    whole, _ = whole_step(begin(whole_plan, model), batch)
    parts = begin(plan, model)
    losses = []
    for row in range(4):
        parts, terms = step(parts, take(batch, slice(row, row + 1)))
        losses.append(float(terms["loss"]))
        if row < 3:
            jax.tree.map(np.testing.assert_array_equal, parts.trainable, begin(plan, model).trainable)
            jax.tree.map(np.testing.assert_array_equal, parts.average, begin(plan, model).average)
    _, terms = whole_step(begin(whole_plan, model), batch)
    assert np.mean(losses) == pytest.approx(float(terms["loss"]), rel=1e-5)
    moments = [optax.tree_utils.tree_get(state.optimizer, "mu") for state in (parts, whole)]
    assert distance(*moments) < 1e-4
    # Adam turns a gradient that is all rounding into a full step: some elements differ, most cannot.
    assert distance(parts.trainable, whole.trainable) < 1e-2 * distance(whole.trainable, begin(plan, model).trainable)
    assert distance(parts.average, whole.average) < 1e-2 * distance(whole.average, begin(plan, model).average)


def test_frozen_parameters_stay_bit_identical_and_carry_no_optimizer_state(
    model: Model, averaging: tuple[Plan, Step]
) -> None:
    plan, step = averaging
    before = begin(plan, model)
    state = before
    for seed in range(3):
        state, _ = step(state, clips(seed))
    frozen = flatten(state.frozen)
    assert {path.split("/")[0] for path in frozen} == {"aggregator", "points", "track_features", "tracker"}
    for path, x in frozen.items():
        np.testing.assert_array_equal(x, flatten(model.params)[path])
    for path, x in flatten(state.trainable).items():
        assert not np.array_equal(x, flatten(before.trainable)[path]), f"{path} was not trained"
    moments = optax.tree_utils.tree_get(state.optimizer, "nu")
    assert flatten(moments).keys() == flatten(state.trainable).keys()
    assert flatten(state.trainable).keys() | frozen.keys() == flatten(model.params).keys()


def test_heads_that_are_not_asked_for_are_frozen(model: Model) -> None:
    """Their gradient is zero, and weight decay would make them smaller with every step."""
    state = jax.eval_shape(partial(init_state, make_plan(heads=("camera", "points"))), model)
    assert {path.split("/")[0] for path in flatten(state.trainable)} == {"aggregator", "camera", "points"}
    without_tracker = model.only_heads(("camera", "depth", "points"))
    state = jax.eval_shape(partial(init_state, make_plan()), without_tracker)
    assert {path.split("/")[0] for path in flatten(state.trainable)} == {"aggregator", "camera", "depth"}


def test_average_follows_the_parameters(model: Model, averaging: tuple[Plan, Step]) -> None:
    plan, step = averaging
    state = begin(plan, model)
    expected = jax.device_get(state.trainable)
    for seed in range(3):
        state, _ = step(state, clips(seed))
        trainable = jax.device_get(state.trainable)
        decay = min(DECAY, (2 + seed) / (11 + seed))
        expected = jax.tree.map(lambda a, x, decay=decay: decay * a + (1 - decay) * x, expected, trainable)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state.average, expected)
    assert begin(make_plan(), model).average is None


def test_a_batch_without_a_finite_loss_changes_nothing_but_the_step(model: Model, averaging: tuple[Plan, Step]) -> None:
    plan, step = averaging
    before, _ = step(begin(plan, model), clips(0))
    spoilt = clips(1)
    spoilt["cam_from_world"] = spoilt["cam_from_world"] * np.float32(np.nan)
    after, terms = step(before, spoilt)
    assert not np.isfinite(terms["loss"])
    assert int(after.step) == int(before.step) + 1
    jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(after, step=before.step), before)


@pytest.fixture
def measured(model: Model, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict, int]]:
    """The gradient and the bytes of temporaries of one clip of 6 frames, the heads one frame at a time as in large images."""
    monkeypatch.setattr(ivggt_jax.model.vggt, "PIXELS_AT_ONCE", 28 * 28)
    batch = clips(0, count=1, frames=6)

    def measure(**changes: str) -> tuple[dict, int]:
        compiled = gradient_of(make_plan(**changes), model).lower(model.params, batch).compile(COARSE)
        return compiled(model.params, batch)[0], compiled.memory_analysis().temp_size_in_bytes

    return measure


@pytest.mark.slow
def test_rematerialisation_and_bfloat16(measured: Callable[..., tuple[dict, int]]) -> None:
    """Recomputing saves memory and changes no gradient; half precision changes it a little, and not its type."""
    gradient, memory = measured()
    block, block_memory = measured(rematerialise="block")
    full, full_memory = measured(rematerialise="full")
    assert distance(block, gradient) < 1e-5 and distance(full, gradient) < 1e-5
    assert memory > 1.1 * block_memory > 1.2 * full_memory, (memory, block_memory, full_memory)
    half, _ = measured(precision="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(half)} == {jnp.dtype(jnp.float32)}
    assert 1e-4 < distance(half["aggregator"], gradient["aggregator"]) < 0.2


def test_parameters_are_float32_whatever_the_trunk_computes_in(model: Model) -> None:
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    state = jax.eval_shape(partial(init_state, make_plan(precision="bfloat16")), half)
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}


def test_teacher_sees_the_whole_clip(model: Model) -> None:
    """As an offline student does: of the same weights it has nothing to learn."""
    plan = make_plan(mode="offline", heads=("camera",), task_weight=0.0, distillation_weight=1.0)
    assert float(gradient_of(plan, model, model)(model.params, clips(0))[1]["loss"]) == pytest.approx(0, abs=1e-6)


def test_tracks_are_predicted_only_where_they_are_trained(model: Model) -> None:
    batch = clips(0)
    for heads in (ALL_HEADS, ("camera", "depth")):
        found = jax.eval_shape(partial(predict, make_plan(heads=heads).step, mode="causal"), model, batch)
        assert (found.tracks is None) == ("tracks" not in heads)
        assert (found.points is None) == ("points" not in heads)


def test_no_gradient_runs_through_a_trunk_that_is_frozen(model: Model) -> None:
    """The motion head alone: nothing is scanned backwards. The depth branch lies below the trunk, so there the pairs of blocks are.

    Kept for the backward pass is what the head needs, not what the trunk does.
    """
    batch = clips(0) | {"moving": np.zeros((4, 3, 28, 28), bool), "sensor_depth": clips(0)["depth"]}

    def backwards(frozen: str, heads: tuple[str, ...], depth_input: bool) -> int:
        student = extended(model, heads, depth_input, jax.random.key(0))
        plan = dataclasses.replace(make_plan(heads=heads, frozen=(frozen,)), model=student.config, sensed=depth_input)
        state = jax.eval_shape(partial(init_state, plan), student)
        program = jax.make_jaxpr(partial(differentiate, plan))((state.trainable, state.frozen, None), batch)
        return str(program).count("reverse=True")

    assert backwards("aggregator/.*", ("motion",), False) == 0
    assert backwards("aggregator/(?!depth_patches/).*", ("depth",), True) == 1


def test_a_student_is_extended_by_what_it_has_not(model: Model) -> None:
    """What it has stays the same arrays; what is new begins with the key's; asked for nothing new it is itself."""
    assert extended(model, ("camera", "tracks"), False, jax.random.key(0)) is model
    more = extended(model.only_heads(("camera",)), ("motion",), True, jax.random.key(0))
    assert more.config.predicts == ("camera", "motion") and more.config.depth_input
    old, new = flatten(model.only_heads(("camera",)).params), flatten(more.params)
    assert all(new[path] is x for path, x in old.items())
    assert {path.rpartition("/mlp/")[0] or path.split("/")[0] for path in new.keys() - old.keys()} == {
        "aggregator/depth_patches", "motion",
    }  # fmt: skip


def test_a_told_student_is_measured_in_the_sensor_unit(model: Model) -> None:
    """Depth that is right but for the unit costs nothing where the first frame was not told, and all of it where it was."""
    truth = {name: jnp.asarray(x) for name, x in clips(0, count=2).items()}
    prediction = {"depth": 2 * truth["depth"], "depth_confidence": jnp.full(truth["depth"].shape, np.e)}
    sensor = jnp.zeros_like(truth["depth"]).at[1, 0, 3, 4].set(2.0).at[0, 1].set(1.0)
    for told, expected in (({}, 0.0), ({"sensor_depth": sensor}, np.e / 2)):
        error = task_losses(prediction, truth | told)["depth"]["error"]
        assert float(error) == pytest.approx(expected, rel=0.02, abs=1e-5)


def test_the_loss_of_motion_is_focal_cross_entropy() -> None:
    """By hand: −(1 − p)²·log p of what moves and is called so with p, mean over valid pixels; right is nothing, to 1e-6."""
    moving, valid = np.array([[[[True, False, True]]]]), np.array([[[[True, True, False]]]])
    motion = jnp.array([[[[0.9, 0.2, 0.5]]]])
    expected = (-(0.1**2) * np.log(0.9) - 0.2**2 * np.log(0.8)) / 2
    assert float(motion_loss(motion, moving, valid)["error"]) == pytest.approx(expected, rel=1e-5)
    assert float(motion_loss(jnp.asarray(moving, jnp.float32), moving, valid)["error"]) == pytest.approx(0, abs=1e-6)
    slope = jax.grad(lambda x: motion_loss(jax.nn.sigmoid(x), moving, valid)["error"])(jnp.full(moving.shape, -8.0))
    assert slope[0, 0, 0, 0] < -0.4, "a pixel that is wrong for certain is felt"


@pytest.mark.parametrize(("loss", "head"), [("relative", "camera"), ("log_depth", "depth")])
def test_a_loss_needs_its_head(loss: str, head: str) -> None:
    """Without it the loss would be nothing, and nothing would say so."""
    config = LossConfig(task_weight=1.0, **{loss: 1.0})
    with pytest.raises(ValueError, match=f"step.loss.{loss} is a loss of the head {head}"):
        StepConfig(heads=("points",), loss=config)
    StepConfig(heads=("points", head), loss=config)
