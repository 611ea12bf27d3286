"""What a step needs beside its state, read off the compiled program: no cache is ever copied. Nothing is run."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from ivggt_jax import CacheConfig, ModelConfig, init_stream, reset, scan, step
from ivggt_jax.model.parameters import abstract_model, computes_bfloat16

CONFIG = replace(ModelConfig.tiny(), depth=12, dpt_layers=(2, 5, 8, 11))
BOUNDED = CacheConfig(total_budget=1_600_000, camera_frames=4)
UNBOUNDED = CacheConfig(total_budget=None, max_frames=20_000)


def nbytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("what", "cache_config", "trunk"),
    [
        ("step", BOUNDED, "float32"),
        ("scan", BOUNDED, "float32"),
        ("reset", BOUNDED, "float32"),
        ("step", UNBOUNDED, "float32"),
        ("step of some", BOUNDED, "float32"),
        ("step of some", replace(BOUNDED, evict_after_attention=True, policy="attention"), "float32"),
        ("step", replace(BOUNDED, evict_after_attention=True), "float32"),
        ("scan", replace(BOUNDED, frames_per_step=3), "float32"),
        ("scan", replace(BOUNDED, frames_per_step=3, policy="residual"), "float32"),
        pytest.param(
            "step", BOUNDED, "bfloat16",
            marks=pytest.mark.skipif(not computes_bfloat16(), reason="this JAX copies bfloat16 to float32 on a CPU"),
        ),
    ],
)  # fmt: skip
def test_no_copy_of_a_cache(what, cache_config, trunk):
    """All buffers of the state are updated in place; temporaries together are less than a layer's keys and values in float32."""
    model = abstract_model(CONFIG, trunk)
    state = jax.eval_shape(lambda: init_stream(model, cache_config, height=28, width=28, heads=(), features=True))
    frames = jax.ShapeDtypeStruct((3, 1, 28, 28, 3), jnp.float32)
    frame, where = jax.ShapeDtypeStruct(frames.shape[1:], frames.dtype), jax.ShapeDtypeStruct((1,), bool)
    lowered = {
        "step": lambda: step.lower(model, state, frame),
        "step of some": lambda: step.lower(model, state, frame, where),
        "scan": lambda: scan.lower(model, state, frames),
        "reset": lambda: reset.lower(state, where),
    }[what]()
    memory = lowered.compile().memory_analysis()
    assert nbytes(state.cache) > 500 * 2**20
    # Counters may be padded.
    assert memory.alias_size_in_bytes >= nbytes(state) - 1024
    assert memory.temp_size_in_bytes < 2 * 4 * state.cache.keys.size / CONFIG.depth
