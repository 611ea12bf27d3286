"""Append and evict, against a NumPy reference with integer redundancies (exact, many ties) and with the diversity policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import redundancy as reference_redundancy
from numpy_reference import survivors

from ivggt_jax import CacheConfig
from ivggt_jax.memory.cache import KVCache, append, quantise
from ivggt_jax.memory.eviction import Eviction
from ivggt_jax.memory.policies import diversity

LAYERS, LAYER, BATCH, SLOTS, HEADS, DIM, ANCHOR = 3, 1, 8, 72, 3, 4, 5


def first_channel(keys, live, candidates, origin, extra):
    """A policy that reads the redundancy off the keys, so that a test can choose it."""
    return keys[..., 0].transpose(0, 2, 1)


def eviction(anchor: int, batch: int) -> Eviction:
    """By the first channel; a first frame of `anchor` tokens stays, and at most twice as many go in a round."""
    return Eviction(CacheConfig(policy=first_channel), anchor, 1, jnp.zeros(batch, jnp.int32))


@jax.jit
def evict_jitted(cache, budget, score):
    return eviction(ANCHOR, BATCH).evict(cache, LAYER, budget, score)


def filled(random: np.random.Generator, length: np.ndarray, levels: int | None) -> KVCache:
    """A cache with leftovers everywhere; key channel 0 holds `levels` integers around 0 (None: all distinct)."""
    shape = (LAYERS, BATCH, SLOTS, HEADS)
    keys = random.normal(size=(*shape, DIM)).astype(np.float32)
    order = random.permuted(np.broadcast_to(np.arange(SLOTS)[:, None], shape), axis=2)
    levels = levels or SLOTS
    keys[..., 0] = order % levels - levels // 2
    dead = np.arange(SLOTS)[None, :] >= length[:, None]
    keys[LAYER, dead] = np.nan  # nothing may ever look there
    return KVCache(
        keys=jnp.asarray(keys),
        values=jnp.asarray(random.normal(size=keys.shape), jnp.float32),
        origin=jnp.broadcast_to(jnp.arange(SLOTS, dtype=jnp.int32)[:, None] + 1000, shape),
        length=jnp.full((LAYERS, BATCH), SLOTS, jnp.int32).at[LAYER].set(length),
    )


def check_eviction(before: KVCache, after: KVCache, redundancy: np.ndarray, budget: np.ndarray, exact: bool) -> None:
    """Lengths, who survived, that key, value and origin stayed together, the anchor's place, and other layers untouched."""
    before, after = jax.tree.map(np.asarray, (before, after))
    length = before.length[LAYER]
    np.testing.assert_array_equal(after.length[LAYER], np.minimum(length, budget))
    for b, h in np.ndindex(BATCH, HEADS):
        kept = after.origin[LAYER, b, : after.length[LAYER, b], h] - 1000
        wanted = survivors(redundancy[b, h, : length[b]], budget[b], ANCHOR)
        assert len(set(kept)) == len(kept)
        if exact:
            assert set(kept) == wanted
        else:
            assert sorted(redundancy[b, h, kept]) == sorted(redundancy[b, h, list(wanted)])
        np.testing.assert_array_equal(kept[:ANCHOR], np.arange(ANCHOR))
        for name in ("keys", "values"):
            rows = getattr(after, name)[LAYER, b, : len(kept), h]
            np.testing.assert_array_equal(rows, getattr(before, name)[LAYER, b, kept, h])
    for name in ("keys", "values", "origin", "length"):
        others = np.arange(LAYERS) != LAYER
        np.testing.assert_array_equal(getattr(after, name)[others], getattr(before, name)[others])


@pytest.mark.parametrize("levels", [None, 7, 1], ids=["distinct", "ties", "all equal"])
@pytest.mark.parametrize("most", [2 * ANCHOR, SLOTS], ids=["one round", "many rounds"])
def test_evicts_the_most_redundant(levels, most):
    """40 caches of 8 streams × 3 heads (seed 0); falls of budget up to two anchors' worth, and up to everything."""
    random = np.random.default_rng(0)
    for _ in range(40):
        length = random.integers(ANCHOR, SLOTS + 1, BATCH).astype(np.int32)
        lowest = np.maximum(ANCHOR, length - most)
        budget = random.integers(lowest, length + 3).astype(np.int32)
        cache = filled(random, length, levels)
        after, _ = evict_jitted(cache, budget, jnp.zeros(BATCH))
        # Rounds after the first see moved tokens: which of equals goes is then open.
        exact = levels is None or most == 2 * ANCHOR
        check_eviction(cache, after, np.asarray(cache.keys[LAYER, ..., 0]).transpose(0, 2, 1), budget, exact)


@pytest.mark.parametrize("budget", [ANCHOR, 2 * ANCHOR, SLOTS - 1, SLOTS, SLOTS + 1])
def test_budgets_at_the_edges(budget):
    cache = filled(np.random.default_rng(1), np.full(BATCH, SLOTS, np.int32), None)
    after, _ = evict_jitted(cache, jnp.full(BATCH, budget), jnp.zeros(BATCH))
    redundancy = np.asarray(cache.keys[LAYER, ..., 0]).transpose(0, 2, 1)
    check_eviction(cache, after, redundancy, np.full(BATCH, budget), exact=True)


def test_score_is_the_mean_before_selection_and_stays_without_eviction():
    """Streams 0–3 are over their budget, the others within it."""
    length = np.array([72, 60, 40, 12, 72, 60, 40, 5], np.int32)
    budget = np.array([20, 59, 5, 6, 72, 61, 72, 5], np.int32)
    cache = filled(np.random.default_rng(2), length, 9)
    _, score = evict_jitted(cache, budget, jnp.full(BATCH, 0.25))
    candidates = [np.asarray(cache.keys[LAYER, b, ANCHOR:n, :, 0]) for b, n in enumerate(length)]
    np.testing.assert_allclose(score[:4], [x.mean() for x in candidates[:4]], rtol=1e-6)
    np.testing.assert_array_equal(score[4:], np.full(4, 0.25, np.float32))


def test_append_goes_behind_the_live_tokens():
    """Streams of different lengths, one of them with room for no more than the new tokens."""
    random = np.random.default_rng(3)
    length = np.array([0, 5, 17, 30, 44, 50, 63, SLOTS - 9], np.int32)
    cache = filled(random, length, 9)
    keys, values = random.normal(size=(2, BATCH, 9, HEADS, DIM)).astype(np.float32)
    origin = random.integers(0, 100, (BATCH, 9)).astype(np.int32)
    after = jax.jit(append)(cache, LAYER, keys, values, origin)
    np.testing.assert_array_equal(after.length[LAYER], length + 9)
    for name, new in (("keys", keys), ("values", values), ("origin", np.repeat(origin[..., None], HEADS, 2))):
        expected = np.array(getattr(cache, name))
        for b, n in enumerate(length):
            expected[LAYER, b, n : n + 9] = new[b]
        np.testing.assert_array_equal(getattr(after, name), expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_diversity_is_the_cosine_with_the_mean_direction(dtype):
    """Float32 (1e-6) whatever the cache holds; keys of very different norms; NaN in dead slots."""
    random = np.random.default_rng(4)
    length = random.integers(ANCHOR + 1, SLOTS + 1, BATCH)
    keys = random.normal(0.5, 1, (BATCH, SLOTS, HEADS, DIM)) * random.uniform(1e-3, 1e3, (BATCH, SLOTS, HEADS, 1))
    live = np.arange(SLOTS) < length[:, None]
    keys = jnp.asarray(np.where(live[..., None, None], keys, np.nan), dtype)
    candidates = np.repeat((live & (np.arange(SLOTS) >= ANCHOR))[:, None], HEADS, 1)
    found = jax.jit(diversity)(keys, live, candidates, np.zeros((BATCH, SLOTS, HEADS), np.int32))
    assert found.dtype == jnp.float32
    for b, h in np.ndindex(BATCH, HEADS):
        inside = slice(ANCHOR, length[b])
        expected = reference_redundancy(np.asarray(keys[b, inside, h].astype(jnp.float32)))
        np.testing.assert_allclose(found[b, h, inside], expected, rtol=0, atol=1e-6)


def test_a_key_of_zeros_is_no_division_by_zero():
    keys = np.random.default_rng(5).normal(size=(1, SLOTS, 1, DIM)).astype(np.float32)
    keys[0, 10] = 0
    everything = np.ones((1, SLOTS), bool)
    found = diversity(jnp.asarray(keys), everything, everything[:, None], np.zeros((1, SLOTS, 1), np.int32))
    assert np.isfinite(found).all()
    assert found[0, 0, 10] == 0


def test_int8_is_within_half_a_step_of_each_vector():
    x = np.random.default_rng(5).normal(size=(6, 7, 64)).astype(np.float32) * 10.0 ** np.arange(-3, 3)[:, None, None]
    x[0, 0] = 0
    rounded, scale = quantise(jnp.asarray(x))
    assert rounded.dtype == jnp.int8
    np.testing.assert_allclose(scale, np.abs(x).max(-1) / 127, rtol=1e-6)
    assert (np.abs(rounded * np.asarray(scale)[..., None] - x) <= 0.501 * np.asarray(scale)[..., None]).all()


def test_scales_go_where_their_tokens_go():
    """Appended and evicted, every int8 key is what it was: vectors of norms that differ by token, three of ten go."""
    random = np.random.default_rng(6)
    keys = random.normal(size=(1, 10, HEADS, DIM)).astype(np.float32) * (1 + np.arange(10))[:, None, None]
    cache = KVCache.empty((1, 1, 16, HEADS, DIM), jnp.dtype(jnp.int8))
    cache = append(cache, 0, jnp.asarray(keys), jnp.asarray(2 * keys), jnp.arange(10)[None])
    after, _ = eviction(2, 1).evict(cache, 0, jnp.array([7]), jnp.zeros(1))
    kept = np.asarray(after.origin)[0, 0, :7]
    assert all(len(set(kept[:, head])) == 7 for head in range(HEADS)) and (kept[:2] == [[0], [1]]).all()
    expected = np.take_along_axis(keys[0], kept[..., None], axis=0)
    np.testing.assert_allclose(after.layer_keys(0)[0, :7], expected, atol=10 * 4 / 127)
    values = after.values[0, 0, :7] * np.asarray(after.scales[1])[0, 0, :7, :, None]
    np.testing.assert_allclose(values, 2 * expected, atol=20 * 4 / 127)
