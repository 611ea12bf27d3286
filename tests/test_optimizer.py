"""The optimiser: its two methods, who is decayed and frozen, the schedule, clipping, accumulation."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.tree_utils
import pytest

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.parameters import abstract_params, flatten, unflatten
from ivggt_jax.train.optimizer import (
    FROZEN,
    OptimizerConfig,
    decay_mask,
    describe,
    learning_rate_schedule,
    make_optimizer,
    merge,
    partition,
    update_average,
    updates_made,
)

TINY_DECAYED = 2_267_457
"""Elements of the tiny checkpoint in tensors of two or more axes that are not biases: the reference's rule."""


def some_params(seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    shapes = {"block": {"kernel": (3, 4, 5), "bias": (3, 5), "scale1": (3, 5)}, "token": (2, 5)}
    draw = lambda shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


def step(optimizer: optax.GradientTransformationExtraArgs, gradients: dict, state: tuple, params: dict) -> tuple:
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def test_decay_acts_on_what_the_reference_decays() -> None:
    params = flatten(abstract_params(ModelConfig.tiny()))
    mask = flatten(decay_mask(abstract_params(ModelConfig.tiny())))
    assert sum(params[path].size for path, decayed in mask.items() if decayed) == TINY_DECAYED
    for token in ("camera/empty_pose", "tracker/frame_tokens", "tracker/transformer/virtual_tracks"):
        assert mask[token]
    assert not mask["aggregator/frame_blocks/qkv/bias"], "a stacked bias has two axes and is a bias"


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_decay_shrinks_kernels_and_leaves_biases(method: Literal["adamw", "muon"]) -> None:
    params = some_params()
    config = OptimizerConfig(method=method, learning_rate=0.1, final_learning_rate=0.1, warmup=0.0, frozen=())
    optimizer = make_optimizer(config, updates=10)
    after, _ = step(optimizer, jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    kept = 1 - 0.1 * config.weight_decay
    np.testing.assert_allclose(after["block"]["kernel"], kept * params["block"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(after["token"], kept * params["token"], rtol=1e-6)
    for name in ("bias", "scale1"):
        np.testing.assert_array_equal(after["block"][name], params["block"][name])


def test_muon_turns_blocks_orthogonally_and_leaves_the_rest_to_adamw() -> None:
    """A layer's update has singular values around rate · 0.2 · √(longer side): five Newton-Schulz steps reach 0.7 to 1.2 of it."""
    params = some_params() | {"conv": {"kernel": jnp.ones((3, 3, 4, 5))}, "projection": {"kernel": jnp.ones((4, 5))}}
    gradients = jax.tree.map(lambda x: jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32), params)
    steps = {}
    for method in ("adamw", "muon"):
        config = OptimizerConfig(
            method=method, learning_rate=0.1, final_learning_rate=0.1, warmup=0.0, weight_decay=0.0, frozen=()
        )
        optimizer = make_optimizer(config, updates=10)
        after, _ = step(optimizer, gradients, optimizer.init(params), params)
        steps[method] = flatten(jax.tree.map(jnp.subtract, after, params))
    singular = np.linalg.svd(steps["muon"].pop("block/kernel"), compute_uv=False) / (0.1 * 0.2 * np.sqrt(5))
    assert singular.shape == (3, 4) and singular.min() > 0.6 and singular.max() < 1.3, singular
    for path, moved in steps["muon"].items():
        np.testing.assert_allclose(moved, steps["adamw"][path], rtol=1e-6)


def test_muon_has_every_block_of_the_network() -> None:
    params = flatten(abstract_params(ModelConfig.demo()))
    moments = make_optimizer(OptimizerConfig(method="muon", frozen=()), 10).init(unflatten(params))
    squares = [value for _, value in optax.tree_utils.tree_get_all_with_path(moments, "nu")]
    by_adamw = {leaf.shape for leaf in jax.tree.leaves(squares)}
    blocks = {value.shape for path, value in params.items() if "blocks/" in path and path.endswith("/kernel")}
    assert blocks and blocks.isdisjoint(by_adamw)


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rate": -1e-3}, {"final_learning_rate": -1.0}, {"beta1": 1.5}, {"beta2": 1.0}, {"weight_decay": -3.0},
     {"clip_norm": 0.0}, {"clip_norm": np.nan}],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(wrong: dict) -> None:
    """A clip_norm of 0, which means no clipping elsewhere, would leave weight decay alone."""
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} .* makes no sense"):
        OptimizerConfig(**wrong)


def test_default_groups_freeze_the_encoder_and_the_special_tokens() -> None:
    params = abstract_params(ModelConfig.vggt_1b())
    trainable, frozen = partition(params, FROZEN)
    assert set(flatten(trainable)).isdisjoint(flatten(frozen))
    assert {path.split("/")[1] for path in flatten(frozen)} == {"encoder", "camera_token", "register_token"}
    assert not any(path.startswith("aggregator/encoder/") for path in flatten(trainable))
    assert describe(trainable, frozen) == (
        "952,154,540 of 1,256,537,516 parameters are trained (75.8%), 304,382,976 are frozen"
    )
    assert jax.tree.structure(merge(trainable, frozen)) == jax.tree.structure(params)


def test_frozen_parameters_have_no_optimizer_state() -> None:
    params = some_params()
    trainable, _ = partition(params, ["block/.*"])
    moments = jax.eval_shape(make_optimizer(OptimizerConfig(), 10).init, trainable)
    assert {leaf.shape for leaf in jax.tree.leaves(moments)} <= {(), (2, 5)}


def test_patterns_that_match_nothing_or_everything_are_errors() -> None:
    with pytest.raises(ValueError, match="'blok/.\\*' matches no parameter"):
        partition(some_params(), ["blok/.*"])
    with pytest.raises(ValueError, match="matches no parameter"):
        partition(some_params(), ["block"])
    with pytest.raises(ValueError, match="nothing to train"):
        partition(some_params(), [".*"])


def test_schedule_is_the_published_one() -> None:
    per_epoch = 200
    schedule = learning_rate_schedule(OptimizerConfig(), updates=10 * per_epoch)
    for epoch in (0.0, 0.1, 0.25, 0.5, 1.0, 5.25, 9.0, 10.0):
        cosine = 1e-7 + (1e-5 - 1e-7) / 2 * (1 + np.cos(np.pi * (epoch - 0.5) / (10 - 0.5)))
        expected = 1e-5 * epoch / 0.5 if epoch < 0.5 else cosine
        assert float(schedule(jnp.array(round(epoch * per_epoch)))) == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_clipping_bounds_the_gradient_norm() -> None:
    params = some_params()
    optimizer = make_optimizer(OptimizerConfig(frozen=()), 10)
    for scale, expected in ((1000.0, 1.0), (1e-3, None)):
        gradients = jax.tree.map(lambda x, scale=scale: scale * x, params)
        _, state = step(optimizer, gradients, optimizer.init(params), params)
        first_moment = optax.tree_utils.tree_get(state, "mu")
        norm = float(optax.global_norm(gradients)) if expected is None else expected
        assert float(optax.global_norm(first_moment)) == pytest.approx(0.1 * norm, rel=1e-5)


def test_accumulation_of_four_equals_a_batch_of_four() -> None:
    params = some_params()
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 3, 4)), jnp.float32)

    def loss(params: dict, inputs: jax.Array) -> jax.Array:
        outputs = jnp.einsum("blc,lcd->bd", inputs, params["block"]["kernel"])
        outputs = outputs * params["block"]["scale1"].sum(0) + params["block"]["bias"].sum(0) + params["token"].sum(0)
        return jnp.mean(jnp.square(outputs))

    whole, quarters = params, params
    config = OptimizerConfig(learning_rate=1e-2, warmup=0.5, frozen=())
    optimizer = make_optimizer(config, 4)
    accumulating = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup=0.5, accumulation=4, frozen=()), 4)
    state, accumulated = optimizer.init(whole), accumulating.init(quarters)
    for batch in inputs:
        whole, state = step(optimizer, jax.grad(loss)(whole, batch), state, whole)
        for sample in batch:
            quarters, accumulated = step(accumulating, jax.grad(loss)(quarters, sample[None]), accumulated, quarters)
    assert not np.allclose(whole["token"], params["token"], atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, quarters)


def test_average_moves_by_its_decay() -> None:
    average = update_average({"a": jnp.array(1.0)}, {"a": jnp.array(2.0)}, 0.9, jnp.array(1000))
    assert float(average["a"]) == pytest.approx(1.1)


def test_average_soon_forgets_where_it_began() -> None:
    """Parameters that are 1 from the first update on: of the start at 0, (1+n)/(10+n) is kept in update n."""
    average = {"a": jnp.array(0.0)}
    for count in range(1, 4):
        average = update_average(average, {"a": jnp.array(1.0)}, 0.998, jnp.array(count))
    assert float(average["a"]) == pytest.approx(1 - 2 / 11 * 3 / 12 * 4 / 13)


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_updates_are_counted(method: Literal["adamw", "muon"]) -> None:
    """Batches that only accumulate are no updates."""
    params = some_params()
    optimizer = make_optimizer(OptimizerConfig(method=method, accumulation=2, frozen=()), updates=10)
    state, counts = optimizer.init(params), []
    for _ in range(4):
        _, state = step(optimizer, params, state, params)
        counts.append(int(updates_made(state)))
    assert counts == [0, 1, 1, 2]


def test_hyperparameters_out_of_range_are_errors() -> None:
    for wrong in ({"warmup": 1.0}, {"accumulation": 0}, {"average_decay": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            OptimizerConfig(**wrong)
    with pytest.raises(ValueError, match="updates"):
        make_optimizer(OptimizerConfig(), 0)
