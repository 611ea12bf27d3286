"""Choosing without sorting: the kernel plans the same moves as `lax.top_k` and sorting, to the slot."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lowering import for_cuda

from ivggt_jax.kernels.moves import SLOTS, plan_moves
from ivggt_jax.memory import cache

INTERPRET = jax.default_backend() != "gpu"


def numbers(kind: str, width: int) -> np.ndarray:
    """Normal ones, changed as the kind says; rows of 3 × 2."""
    x = np.random.default_rng(width).normal(size=(3, 2, width)).astype(np.float32)
    if kind == "many equal":
        x = np.round(x)
    if kind == "all equal but for the sign":
        x = np.copysign(0, x)
    if kind == "infinite":
        x[..., ::3], x[..., 1::9] = -np.inf, np.inf
    return x


@pytest.mark.parametrize("kind", ["all different", "many equal", "all equal but for the sign", "infinite"])
@pytest.mark.parametrize("width", [128, SLOTS + 128])
def test_the_kernel_plans_the_same_moves(kind, width):
    """Three streams, of which two lose 17 and 40 tokens and one none; the first ten slots are no candidates."""
    length, target = jnp.array([width, width - 28, 40]), jnp.array([width - 17, width - 68, 40])
    slot = np.arange(width)
    candidates = (slot >= 10) & (slot < np.asarray(length)[:, None])
    redundancy = jnp.where(candidates[:, None], numbers(kind, width), -jnp.inf)
    expected = cache.moves_by_sorting(redundancy, length, target, 50)
    found = plan_moves(redundancy, length, target, 50, interpret=INTERPRET)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert (np.asarray(expected[0]) < width).sum(-1).max() > 0


def test_more_can_go_than_a_block_holds():
    """All but ten of more than two blocks, so that holes and padding fill several."""
    width, most = 2 * SLOTS + 256, SLOTS + 300
    redundancy = jnp.asarray(numbers("all different", width))[:1]
    length, target = jnp.array([width]), jnp.array([width - most + 7])
    expected = cache.moves_by_sorting(redundancy, length, target, most)
    found = plan_moves(redundancy, length, target, most, interpret=INTERPRET)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_where_numbers_have_64_bits_by_default():
    """Both ways give 32-bit slots."""
    redundancy, length = jnp.asarray(numbers("all different", 128)), jnp.array([128, 128, 100], jnp.int32)
    with jax.enable_x64(True):
        expected = cache.moves_by_sorting(redundancy, length, length - 9, 20)
        found = plan_moves(redundancy, length, length - 9, 20, interpret=INTERPRET)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert {x.dtype for x in (*found, *expected)} == {np.dtype(np.int32)}


def test_eviction_by_the_kernel_keeps_the_same_tokens(monkeypatch):
    """Three streams of one layer, 128 slots, 2 heads: in four rounds of at most 20 tokens, one, and none."""
    redundancy = jnp.asarray(numbers("many equal", 128))
    length, budget = jnp.array([[128, 100, 60]], jnp.int32), jnp.array([55, 90, 60], jnp.int32)
    keys = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 128, 2, 4)), jnp.float32)
    full = replace(cache.KVCache.empty(keys.shape, jnp.dtype("float32")), keys=keys, values=-keys, length=length)
    kept = []
    for kernel in (False, True):
        monkeypatch.setattr(cache, "can_read", lambda _, kernel=kernel: kernel)
        monkeypatch.setattr(cache, "plan_moves", partial(plan_moves, interpret=INTERPRET))
        first = cache.plan(full, 0, redundancy, budget, 10, 20)
        kept.append(cache.drop(full, 0, redundancy, first, budget, 10))
    jax.tree.map(np.testing.assert_array_equal, *kept)
    np.testing.assert_array_equal(kept[0].length, budget[None])
    np.testing.assert_array_equal(kept[0].keys[:, :, :10], keys[:, :, :10])


def test_moves_are_one_kernel():
    """Lowered for a GPU, at the full model's size; XLA does nothing besides."""
    redundancy = jax.ShapeDtypeStruct((1, 16, 76_288), jnp.float32)
    length = jax.ShapeDtypeStruct((1,), jnp.int32)
    program = for_cuda(jax.jit(partial(plan_moves, most=2082)), redundancy, length, length).as_text()
    assert re.findall(r"stablehlo\.(\w+)", program) == ["custom_call"]
