"""What a step needs beside its state, read off the compiled program: no cache is ever copied. Nothing is run."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from ivggt_jax import CacheConfig, Model, ModelConfig, init_stream, reset, scan, step
from ivggt_jax.model.parameters import abstract_params

CONFIG = replace(ModelConfig.tiny(), depth=12, dpt_layers=(2, 5, 8, 11))


@pytest.mark.parametrize("what", ["step", "scan", "reset"])
@pytest.mark.parametrize(
    "cache_config",
    [CacheConfig(total_budget=1_600_000, camera_frames=4), CacheConfig(total_budget=None, max_frames=20_000)],
    ids=["bounded", "unbounded"],
)
def test_no_copy_of_a_cache(cache_config, what):
    """Every buffer of the state is updated in place, and all temporaries together are less than one of 12 layers' caches."""
    model = Model(CONFIG, abstract_params(CONFIG))
    size = {"height": 28, "width": 28}
    state = jax.eval_shape(lambda: init_stream(model, cache_config, **size, heads=["depth"]))
    frame = jax.ShapeDtypeStruct((1, 28, 28, 3), jnp.float32)
    lowered = {
        "step": lambda: step.lower(model, state, frame),
        "scan": lambda: scan.lower(model, state, jax.ShapeDtypeStruct((3, *frame.shape), frame.dtype)),
        "reset": lambda: reset.lower(state, jax.ShapeDtypeStruct((1,), bool)),
    }[what]()
    memory = lowered.compile().memory_analysis()
    state_bytes, cache_bytes = (
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(y)) for y in (state, state.cache)
    )
    mebibyte = 2**20
    assert cache_bytes > 900 * mebibyte
    # The last bytes are the counters' padding.
    assert memory.alias_size_in_bytes >= state_bytes - 1024
    assert memory.temp_size_in_bytes < cache_bytes / CONFIG.depth
