"""How the total is shared among layers, against bisection in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import shares

from ivggt_jax.memory.budgets import layer_budgets, layer_capacity

budgets_jitted = jax.jit(layer_budgets, static_argnums=(1, 2, 3, 4))


@pytest.mark.parametrize("score", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("layers", [4, 24])
def test_equal_scores_share_exactly(score, layers):
    """50,000 and not 49,999."""
    budgets, clipped = budgets_jitted(jnp.full((2, layers), score), 50_000 * layers, 0.5, 1041, 75_000)
    np.testing.assert_array_equal(budgets, np.full((2, layers), 50_000))
    np.testing.assert_array_equal(clipped, [0, 0])


@pytest.mark.parametrize(
    ("total", "layers", "temperature", "least", "most"),
    [
        (1_200_000, 24, 0.5, 1041, 75_000),
        (290, 4, 0.5, 25, 109),
        (2_000, 24, 0.05, 25, 500),  # many below one frame
        (10_000, 24, 0.1, 25, 450),  # many above the capacity
        (3_000, 24, 0.05, 100, 150),  # both at once
        (600, 24, 0.5, 25, 26),  # no room to share
        (2_400, 24, 0.5, 25, 100),  # every layer full
        (5_000, 24, 0.5, 25, 100),  # more than fits
    ],
)
def test_budgets_are_the_clipped_softmax(total, layers, temperature, least, most):
    """64 streams, scores in [0,1] (seed 0). Where a share is a whole number but for rounding either neighbour is right."""
    scores = np.random.default_rng(0).uniform(size=(64, layers)).astype(np.float32)
    budgets, clipped = (np.asarray(x) for x in budgets_jitted(scores, total, temperature, least, most))
    assert budgets.dtype == np.int32
    assert budgets.sum(1).max() <= total
    assert budgets.min() >= least
    assert budgets.max() <= most
    for stream, found, count in zip(scores, budgets, clipped, strict=True):
        exact = shares(stream, total, temperature, least, most)
        close_to_whole = np.abs(exact - np.round(exact)) < 1e-5 * exact + 1e-3
        assert np.all((found == np.floor(exact)) | close_to_whole & (np.abs(found - exact) < 1.01))
        free = total * np.exp((1 - stream) / temperature) / np.exp((1 - stream) / temperature).sum()
        assert count == np.sum((np.floor(free) < least) | (np.floor(free) > most))


def test_a_broken_stream_gets_budgets_within_the_limits():
    """NaN scores, all of them or one, beside a sound stream."""
    scores = np.random.default_rng(2).uniform(size=(3, 24)).astype(np.float32)
    sound, _ = budgets_jitted(jnp.asarray(scores), 10_000, 0.1, 25, 450)
    scores[0], scores[1, 5] = np.nan, np.nan
    budgets, _ = budgets_jitted(jnp.asarray(scores), 10_000, 0.1, 25, 450)
    np.testing.assert_array_equal(budgets[2], sound[2])
    assert budgets.min() >= 25
    assert budgets.max() <= 450
    assert budgets.sum(1).max() <= 10_000


def test_streams_are_shared_alone():
    scores = np.random.default_rng(1).uniform(size=(5, 24)).astype(np.float32)
    together = budgets_jitted(jnp.asarray(scores), 10_000, 0.1, 25, 450)
    for i, stream in enumerate(scores):
        alone = budgets_jitted(jnp.asarray(stream[None]), 10_000, 0.1, 25, 450)
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y[0]), together, alone)


def test_capacity():
    """The worst case is one layer of score 0 among scores of 1; a factor is over the mean share."""
    assert layer_capacity(1_200_000, 24, 1.5, 0.5) == 75_000
    assert layer_capacity(1_000, 3, 1.0, 0.5) == 334
    assert layer_capacity(1_000, 2, 3.0, 0.5) == 1_000
    assert layer_capacity(1_000, 3, None, 1e-6) == 1_000
    worst = layer_capacity(1_200_000, 24, None, 0.5)
    budgets, clipped = budgets_jitted(jnp.ones((1, 24)).at[0, 7].set(0), 1_200_000, 0.5, 1041, worst)
    assert worst - 1 <= budgets[0, 7] <= worst
    assert clipped[0] == 0
