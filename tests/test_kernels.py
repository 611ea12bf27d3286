"""The GPU kernels' arithmetic, run by Pallas's interpreter, against the plain ways; docs/measure_gpu.sh runs them on a GPU.

Sizes: 2 layers, 2 streams, 512 slots, 3 heads of 32; 150 queries. NaN lies in dead slots.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax.kernels.attention import attend_in_place
from ivggt_jax.kernels.diversity import diversity_in_place
from ivggt_jax.memory.cache import quantise
from ivggt_jax.memory.policies import diversity
from ivggt_jax.model.attention import attend_layer

BATCH, SLOTS, HEADS, DIM, LAYER = 2, 512, 3, 32, 1
LENGTHS = [(3, 512), (64, 65), (200, 448)]


def cache(seed: int, length: jax.Array, int8: bool) -> tuple[jax.Array, jax.Array | None]:
    """Keys or values of two layers, and scales of int8 ones."""
    x = jax.random.normal(jax.random.key(seed), (2, BATCH, SLOTS, HEADS, DIM))
    dead = (jnp.arange(SLOTS) >= length[:, None])[None, :, :, None]
    if not int8:
        return jnp.where(dead[..., None], jnp.nan, x), None
    x, scale = quantise(x)
    return x, jnp.where(dead, jnp.nan, scale)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_attention(lengths, int8):
    length = jnp.array(lengths, jnp.int32)
    query = jax.random.normal(jax.random.key(0), (BATCH, 150, HEADS, DIM))
    (keys, key_scale), (values, value_scale) = (cache(seed, length, int8) for seed in (1, 2))
    scales = (key_scale, value_scale) if int8 else None
    found = attend_in_place(query, keys, values, LAYER, length, scales, interpret=True)
    expected = attend_layer(query, keys, values, LAYER, length, scales)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_diversity(lengths, int8):
    """The first two slots are no candidates."""
    length = jnp.array(lengths, jnp.int32)
    keys, scale = cache(1, length, int8)
    live = jnp.arange(SLOTS) < length[:, None]
    candidates = jnp.broadcast_to((live & (jnp.arange(SLOTS) >= 2))[:, None], (BATCH, HEADS, SLOTS))
    found = diversity_in_place(keys, LAYER, length, candidates, scale, interpret=True)
    plain = keys[LAYER] if scale is None else keys[LAYER] * scale[LAYER][..., None]
    expected = jnp.where(live[:, None], diversity(plain, live, candidates), 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
