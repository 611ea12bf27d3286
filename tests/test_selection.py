"""Choosing without sorting gives what `lax.top_k` gives, to the slot; with it, eviction plans the same moves."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ivggt_jax.memory import cache
from ivggt_jax.memory.largest import BLOCK, largest, places, running_count

SHAPE = (2, 3)


def numbers(kind: str, width: int) -> np.ndarray:
    """Normal ones, changed as the kind says; rows of 2 × 3."""
    x = np.random.default_rng(width).normal(size=(*SHAPE, width)).astype(np.float32)
    if kind == "many equal":
        x = np.round(x)  # −0 and 0 among them
    if kind == "infinite":
        x[..., ::3], x[..., 1::9] = -np.inf, np.inf
    if kind == "not a number":
        x[..., ::7], x[..., 1::7] = np.nan, -np.nan
    return x


@pytest.mark.parametrize("kind", ["all different", "many equal", "infinite", "not a number"])
@pytest.mark.parametrize("width", [5, 700, BLOCK * 4])
def test_the_largest_are_those_of_top_k(kind, width):
    """Any number of them, none and all included."""
    x = numbers(kind, width)
    count = np.array([[0, 1, width // 3], [width // 2, width - 1, width]], np.int32)
    order = np.asarray(lax.top_k(x, width)[1])
    expected = np.zeros(x.shape, bool)
    np.put_along_axis(expected, order, np.arange(width) < count[..., None], axis=-1)
    np.testing.assert_array_equal(jax.jit(largest)(x, count), expected)


@pytest.mark.parametrize("most", [1, 40, 2000])
def test_places_are_those_of_the_marks(most):
    """The first `most` of about 650 among 1,300; padded where there are fewer."""
    marks = np.random.default_rng(0).random((*SHAPE, 1300)) < 0.5
    expected = np.full((*SHAPE, most), 1300)
    for row in np.ndindex(SHAPE):
        found = np.flatnonzero(marks[row])[:most]
        expected[row][: len(found)] = found
    np.testing.assert_array_equal(jax.jit(partial(places, most=most))(marks), expected)
    np.testing.assert_array_equal(running_count(jnp.asarray(marks)), np.cumsum(marks, axis=-1))


def test_moves_are_the_same_either_way(monkeypatch):
    """Three streams, of which two lose 17 and 40 tokens and one none, with many equal redundancies."""
    redundancy = jnp.round(4 * jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 200)), jnp.float32))
    length, target = jnp.array([200, 140, 90]), jnp.array([183, 100, 90])
    plan = [jax.jit(lambda: cache._plan_moves(redundancy, length, target, 10, 50))()]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    plan.append(jax.jit(lambda: cache._plan_moves(redundancy, length, target, 10, 50))())
    jax.tree.map(np.testing.assert_array_equal, *plan)
    assert (np.asarray(plan[0][0]) < 200).sum(-1).max() > 0
