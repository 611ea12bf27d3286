"""Every way of computing attention against a float64 softmax (seed 0, tolerance 2e-6), and its derivatives."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import attention

from ivggt_jax.kernels import attention as module
from ivggt_jax.kernels.attention import attend, attend_causal, attend_layer, attend_masked, attend_once
from ivggt_jax.memory.cache import quantise

BATCH, QUERIES, KEYS, HEADS, DIM = 4, 6, 37, 3, 8


def compiled(function: Callable, **options) -> Callable:
    """Compiled anew: `jax.jit` of the function itself would remember how it computed before a constant was changed."""
    return jax.jit(lambda *arguments: function(*arguments, **options))


@pytest.fixture(params=["dense", "chunked", "one chunk"])
def way(request, monkeypatch) -> None:
    """All scores at once; 37 keys in chunks of 8, the last one uneven; fewer keys than a chunk."""
    for name in ("DENSE_SCORES", "DENSE_SCORES_OF_A_STREAM", "DENSE_SCORES_ON_GPU"):
        monkeypatch.setattr(module, name, 1 << 22 if request.param == "dense" else 0)
    if request.param == "chunked":
        small_chunks(monkeypatch)


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 keys: twice 4, for so many queries."""
    monkeypatch.setattr(module, "CHUNK", 4)
    monkeypatch.setattr(module, "SCORES_OF_A_HEAD", 0)


def operands(queries: int = QUERIES, keys: int = KEYS, scale: float = 1.0) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(0)
    shapes = [(BATCH, count, HEADS, DIM) for count in (queries, keys, keys)]
    return tuple((scale * random.normal(size=shape)).astype(np.float32) for shape in shapes)


def close(found: jax.Array, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_all_keys(way):
    query, keys, values = operands()
    close(compiled(attend)(query, keys, values), attention(query, keys, values, np.ones((BATCH, QUERIES, KEYS), bool)))


def test_large_scores_do_not_overflow(way):
    """Scores up to about ±1e5, where exp overflows unless the maximum is taken off."""
    query, keys, values = operands(scale=200)
    expected = attention(query, keys, values, np.ones((BATCH, QUERIES, KEYS), bool))
    np.testing.assert_allclose(compiled(attend)(query, keys, values), expected, rtol=0, atol=0.2)


@pytest.mark.parametrize("lengths", [(1, 7, 8, 9), (16, 33, 36, 37)])
def test_only_live_keys_count(way, lengths):
    """NaN in dead keys and values; fewer live keys than a chunk, whole chunks, the uneven last one."""
    query, keys, values = operands()
    length = np.array(lengths, np.int32)
    live = np.arange(KEYS) < length[:, None]
    expected = attention(query, keys, values, np.repeat(live[:, None], QUERIES, 1))
    keys, values = (np.where(live[..., None, None], x, np.nan) for x in (keys, values))
    close(compiled(attend)(query, keys, values, length), expected)


def test_one_layer_of_a_stack(way):
    query, keys, values = operands()
    length = np.full(BATCH, 20, np.int32)
    junk = np.full_like(keys, np.nan)
    expected = compiled(attend)(query, keys, values, length)
    for layer in (0, 2):
        stacked = [np.stack([x if i == layer else junk for i in range(3)]) for x in (keys, values)]
        found = compiled(attend_layer)(query, *stacked, layer, length)
        close(found, expected)


def test_one_stream_cannot_poison_another(way):
    query, keys, values = operands()
    length = np.full(BATCH, 20, np.int32)
    clean = compiled(attend)(query, keys, values, length)
    for x in (query, keys, values):
        x[1] = np.nan
    others = np.array([0, 2, 3])
    np.testing.assert_array_equal(compiled(attend)(query, keys, values, length)[others], clean[others])


def test_mask():
    query, keys, values = operands()
    live = np.random.default_rng(1).uniform(size=(BATCH, KEYS)) < 0.5
    expected = attention(query, keys, values, np.repeat(live[:, None], QUERIES, 1))
    values[~live] = np.nan
    keys[~live] = np.nan
    close(attend_masked(query, keys, values, jnp.asarray(live)), expected)
    for i in range(QUERIES):
        close(attend_once(query[:, i : i + 1], keys, values, jnp.asarray(live)), expected[:, i : i + 1])


def test_causal_over_frames(way):
    """Six frames of five tokens: a token sees its own frame whole and all earlier ones."""
    query, keys, values = operands(30, 30)
    frame = np.arange(30) // 5
    seen = np.broadcast_to(frame[None, :] <= frame[:, None], (BATCH, 30, 30))
    close(compiled(attend_causal, frames=6)(query, keys, values), attention(query, keys, values, seen))


@pytest.mark.parametrize("lengths", [None, (1, 8, 9, 37)])
@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_derivatives_of_chunks_are_those_of_dense(monkeypatch, lengths, mode):
    """A clip's path and, with lengths, that of a stream that keeps everything (2e-6)."""
    query, keys, values = operands()
    weight = np.random.default_rng(1).normal(size=query.shape).astype(np.float32)
    live = None if lengths is None else jnp.asarray(lengths)

    def loss(*x):
        return (attend(*x, live) * weight).sum()

    def gradients():
        if mode == "reverse":
            return compiled(jax.grad(loss, argnums=(0, 1, 2)))(query, keys, values)
        return compiled(lambda *x: jax.jvp(lambda *x: attend(*x, live), x, x)[1:])(query, keys, values)

    dense = gradients()
    monkeypatch.setattr(module, "DENSE_SCORES", 0)
    monkeypatch.setattr(module, "DENSE_SCORES_OF_A_STREAM", 0)
    small_chunks(monkeypatch)
    for found, expected in zip(gradients(), dense, strict=True):
        assert np.abs(expected).max() > 0.1
        close(found, expected)


@pytest.mark.parametrize("lengths", [None, (1, 7, 8, 37)])
def test_half_precision(way, lengths):
    """bfloat16 throughout, against float32 with the same numbers; on a GPU this is what cuDNN computes."""
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in operands()]
    length = None if lengths is None else np.array(lengths, np.int32)
    found = compiled(attend)(*rounded, length)
    assert found.dtype == jnp.bfloat16
    live = np.arange(KEYS) < (np.full((BATCH, 1), KEYS) if length is None else length[:, None])
    exact = [np.asarray(x, np.float32) for x in rounded]
    expected = attention(*exact, np.repeat(live[:, None], QUERIES, 1))
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=0, atol=0.02)


def test_half_precision_cache_is_read_in_the_querys_type(way):
    """A bfloat16 cache under float32 queries: only the stored numbers are rounded."""
    query, keys, values = operands()
    keys, values = (jnp.asarray(x, jnp.bfloat16) for x in (keys, values))
    found = compiled(attend)(query, keys, values)
    assert found.dtype == jnp.float32
    rounded = (np.asarray(x.astype(jnp.float32)) for x in (keys, values))
    close(found, attention(query, *rounded, np.ones((BATCH, QUERIES, KEYS), bool)))


def test_int8_keys_and_values_are_multiplied_by_their_scales(way):
    """As if they had been multiplied before; one layer of two, 30 of 37 slots live, what the others hold is NaN."""
    query, keys, values = operands()
    (keys, key_scale), (values, value_scale) = quantise(jnp.asarray(keys)), quantise(jnp.asarray(values))
    whole = [np.asarray(x) * np.asarray(s)[..., None] for x, s in ((keys, key_scale), (values, value_scale))]
    scales = tuple(jnp.stack([jnp.full_like(s, jnp.nan), s.at[:, 30:].set(jnp.nan)]) for s in (key_scale, value_scale))
    stacked = [jnp.stack([x, x]) for x in (keys, values)]
    found = compiled(attend_layer)(query, *stacked, 1, jnp.full(BATCH, 30), scales)
    close(found, attention(query, *(x[:, :30] for x in whole), np.ones((BATCH, QUERIES, 30), bool)))
