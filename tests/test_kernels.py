"""The GPU kernels against the plain ways: where there is no GPU, their arithmetic, run by Pallas's interpreter.

Sizes: 2 layers, 2 streams, 512 slots, 3 heads of 16, 32 or 64; 150 queries. NaN lies in dead slots. On a GPU queries, keys
and values are bfloat16, and attention is right to two of its steps at 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_on_hopper import attend_hopper
from diversity_on_hopper import diversity_hopper, plgpu
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from lowering import for_cuda

from ivggt_jax import kernels
from ivggt_jax.kernels import can_read
from ivggt_jax.kernels.attention import attend_layer
from ivggt_jax.kernels.attention_in_place import attend_in_place
from ivggt_jax.kernels.diversity_in_place import diversity_in_place
from ivggt_jax.memory.cache import quantise
from ivggt_jax.memory.policies import diversity

BATCH, SLOTS, HEADS, LAYER = 2, 512, 3, 1
LENGTHS = [(3, 512), (64, 65), (200, 448)]
INTERPRET = jax.default_backend() != "gpu"
DTYPE, TOLERANCE = (jnp.float32, 5e-6) if INTERPRET else (jnp.bfloat16, 2**-6)


def cache(seed: int, head_dim: int, length: jax.Array, int8: bool) -> tuple[jax.Array, jax.Array | None]:
    """Keys or values of two layers, and scales of int8 ones."""
    x = jax.random.normal(jax.random.key(seed), (2, BATCH, SLOTS, HEADS, head_dim))
    dead = (jnp.arange(SLOTS) >= length[:, None])[None, :, :, None]
    if not int8:
        return jnp.where(dead[..., None], jnp.nan, x).astype(DTYPE), None
    x, scale = quantise(x)
    return x, jnp.where(dead, jnp.nan, scale)


@pytest.mark.parametrize("head_dim", [16, 32, 64])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_attention(lengths, int8, head_dim):
    length = jnp.array(lengths, jnp.int32)
    query = jax.random.normal(jax.random.key(0), (BATCH, 150, HEADS, head_dim)).astype(DTYPE)
    (keys, key_scale), (values, value_scale) = (cache(seed, head_dim, length, int8) for seed in (1, 2))
    scales = (key_scale, value_scale) if int8 else None
    found = attend_in_place(query, keys, values, LAYER, length, scales, interpret=INTERPRET)
    query, keys, values = (x if x.dtype == jnp.int8 else x.astype(jnp.float32) for x in (query, keys, values))
    expected = attend_layer(query, keys, values, LAYER, length, scales)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=0, atol=TOLERANCE)


def judged(length: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which slots are live, and which are candidates: not the first two."""
    live = jnp.arange(SLOTS) < length[:, None]
    return live, jnp.broadcast_to((live & (jnp.arange(SLOTS) >= 2))[:, None], (BATCH, HEADS, SLOTS))


def plain_diversity(keys: jax.Array, length: jax.Array, scale: jax.Array | None) -> jax.Array:
    live, candidates = judged(length)
    plain = keys[LAYER] if scale is None else keys[LAYER] * scale[LAYER][..., None]
    return jnp.where(live[:, None], diversity(plain, live, candidates), 0)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_diversity(lengths, int8):
    length = jnp.array(lengths, jnp.int32)
    keys, scale = cache(1, 32, length, int8)
    found = diversity_in_place(keys, LAYER, length, judged(length)[1], scale, interpret=INTERPRET)
    np.testing.assert_allclose(found, plain_diversity(keys, length, scale), rtol=0, atol=1e-6)


@pytest.mark.skipif(not INTERPRET, reason="on a GPU tools/gpu/kernels.py checks it")
@pytest.mark.parametrize("head_dim", [16, 32, 64])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
def test_the_candidate_for_diversity(dtype, head_dim, monkeypatch, capfd):
    """One stream has blocks that are whole, in part and not live. The interpreter says where reads and writes are a race, with a
    thread for each of the two copies. That of JAX 0.10 knows no layouts, which change no number."""
    monkeypatch.setattr(plgpu, "layout_cast", lambda x, layout: x)
    interpreter = InterpretGPUParams(detect_races=True, num_tma_threads_per_device=2)
    length = jnp.array((200, SLOTS), jnp.int32)
    keys, scale = cache(1, head_dim, length, dtype == jnp.int8)
    inputs = keys.astype(dtype), LAYER, length, judged(length)[1], scale
    found = diversity_hopper(*inputs, interpret=interpreter)
    np.testing.assert_allclose(found, diversity_in_place(*inputs, interpret=True), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, plain_diversity(inputs[0], length, scale), rtol=0, atol=1e-6)
    assert "RACE" not in capfd.readouterr().out


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8])
def test_attention_takes_powers_in_two_instructions(dtype):
    """As lowered for a GPU: the factor log2(e)/√64, in float32, goes with the addition, and nothing keeps numbers below 2^−126."""
    keys = jax.ShapeDtypeStruct((2, BATCH, SLOTS, HEADS, 64), dtype)
    scales = (jax.ShapeDtypeStruct(keys.shape[:-1], jnp.float32),) * 2 if dtype == jnp.int8 else None
    query = jax.ShapeDtypeStruct((BATCH, 150, HEADS, 64), jnp.bfloat16)
    layer, length = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    program = for_cuda(jax.jit(attend_in_place), query, keys, keys, layer, length, scales).as_text()
    factor = np.float32(np.log2(np.e) / 8).view(np.uint32)
    assert f"fma.rn.ftz.f32 t, $1, 0f{factor:08x}, $2; ex2.approx.ftz.f32 $0, t;" in program


def test_the_candidate_for_hopper_lowers():
    """Traced and lowered, at other sizes than its own: more queries than a tile, and a part without keys."""
    keys, query = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((2, 1, SLOTS, 2, 64), (1, 150, 2, 64)))
    layer, length = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    assert "@mosaic_gpu" in for_cuda(jax.jit(attend_hopper), query, keys, keys, layer, length).as_text()


@pytest.mark.parametrize("head_dim", [16, 32, 64])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
def test_the_candidate_for_diversity_lowers(dtype, head_dim):
    """Both passes."""
    keys = jax.ShapeDtypeStruct((2, BATCH, SLOTS, HEADS, head_dim), dtype)
    layer, length = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    candidates = jax.ShapeDtypeStruct((BATCH, HEADS, SLOTS), jnp.bool_)
    assert for_cuda(jax.jit(diversity_hopper), keys, layer, length, candidates).as_text().count("@mosaic_gpu") == 2


def test_what_the_kernels_can_read(monkeypatch):
    """Pallas counts the elements of arrays up to 4 GiB with 32 bits, so int8 caches of 2 to 4 GiB are left to XLA;
    whatever large cache is left to it, is so loudly."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def fits(slots: int, dtype: type, head_dim: int = 64) -> bool:
        return can_read(jax.ShapeDtypeStruct((24, 1, slots, 16, head_dim), dtype))

    assert fits(76_288, jnp.bfloat16) and fits(76_288, jnp.int8)
    assert fits(102_400, jnp.bfloat16) and fits(204_800, jnp.int8) and not fits(76_288 + 64, jnp.bfloat16)
    with pytest.warns(UserWarning, match="copied before it is read, since the GPU kernels cannot count .* 69 ms"):
        assert not fits(102_400, jnp.int8)
    with pytest.warns(UserWarning, match="heads of 48 channels"):
        assert not fits(76_288, jnp.bfloat16, 48)
    monkeypatch.setattr(kernels, "plgpu", None)
    with pytest.warns(UserWarning, match="no Pallas for Triton"):
        assert not fits(76_288, jnp.bfloat16)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert not fits(76_288, jnp.bfloat16)
