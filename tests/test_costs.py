"""Operations counted by hand against XLA's own count, and against what the documentation says."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ivggt_jax import CacheConfig, Model, ModelConfig, init_stream, step
from ivggt_jax.bench.costs import Cost, step_costs
from ivggt_jax.model.heads import dpt
from ivggt_jax.model.parameters import abstract_params

# XLA counts the body of a loop once: one layer where layers are independent loops, and four where the heads need four.
LAYERS = 4
WIDE = replace(ModelConfig.vggt_1b(), depth=LAYERS, dpt_layers=(0, 1, 2, 3), encoder_depth=1, camera_depth=1)
LOOPS = ("frame blocks", "global blocks", "eviction")


@pytest.mark.parametrize("heads", [(), ("camera",), ("depth",), ("points",)])
@pytest.mark.parametrize("size, batch", [((56, 70), 1), ((98, 84), 1), ((56, 70), 2)])
def test_operations_are_those_of_xla(size, batch, heads, monkeypatch):
    """The full model's widths, a loop's body once; within 3 %. Odd and even grids, so every convolution meets its border.

    Interpolation is that of a GPU; on a CPU it multiplies by a matrix that is mostly zeros.
    """
    monkeypatch.setattr(dpt, "platform", lambda: "gpu")
    height, width = size
    model = Model(WIDE, abstract_params(WIDE))
    cache = CacheConfig(total_budget=LAYERS * 100, capacity_factor=1.0, camera_frames=4)
    options = {"height": height, "width": width, "batch": batch, "heads": heads}
    state = jax.eval_shape(lambda: init_stream(model, cache, **options))
    frame = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    counted_by_xla = step.lower(model, state, frame).cost_analysis()["flops"]
    # Attention to so few keys is computed for all slots.
    costs = step_costs(WIDE, height, width, live=state.settings.slots, batch=batch, heads=heads, camera_frames=4)
    counted = sum(cost.operations / (LAYERS if name in LOOPS else 1) for name, cost in costs.items())
    assert counted == pytest.approx(counted_by_xla, rel=0.03)


def test_a_blocks_arithmetic():
    """Twelve squares of the width for each token, and two products of queries and keys: 24 layers of 1,041 tokens."""
    costs = step_costs(ModelConfig.vggt_1b(), 392, 518, live=50_000)
    linear = 24 * 1041 * 2 * 12 * 1024**2
    assert costs["frame blocks"].operations == linear + 24 * 2 * 2 * 1041 * 1041 * 1024
    assert costs["global blocks"].operations == linear + 24 * 2 * 2 * 1041 * 50_000 * 1024


def test_bytes_are_weights_and_live_keys_and_values():
    """Per layer of the global blocks: the parameters, live keys and values read, new ones written; half of it in bfloat16, but for
    what is handed over."""
    config = ModelConfig.vggt_1b()
    costs = step_costs(config, 392, 518, live=50_000)
    parameters = 24 * (12 * 1024**2 + (3 + 1 + 4 + 1 + 2 + 2 + 2) * 1024 + 4 * 64)
    passed_on = 4 * 1041 * 1024
    assert costs["global blocks"].bytes == 4 * (parameters + 24 * 2 * 51_041 * 1024 + passed_on)
    half = step_costs(config, 392, 518, live=50_000, trunk="bfloat16")
    assert 2 * half["global blocks"].bytes == costs["global blocks"].bytes + 4 * passed_on
    assert half["camera head"] == costs["camera head"]
    quarter = step_costs(config, 392, 518, live=50_000, cached="int8")
    saved = 24 * 2 * 51_041 * (3 * 1024 - 16 * 4)
    assert costs["global blocks"].bytes - quarter["global blocks"].bytes == saved


def test_weights_are_read_once_for_all_streams():
    """Eight streams work eight times as much, and all that they save is seven readings of the weights."""
    config = ModelConfig.tiny()
    one, eight = (step_costs(config, 56, 70, live=100, batch=batch) for batch in (1, 8))
    params = abstract_params(config)
    sizes = {name: sum(x.size for x in jax.tree.leaves(params[name])) for name in ("camera", "depth", "points")}
    frame_blocks = sum(x.size for x in jax.tree.leaves(params["aggregator"]["frame_blocks"]))
    saved = {name: 8 * one[name].bytes - eight[name].bytes for name in one}
    assert saved["eviction"] == 0
    assert saved["frame blocks"] == 7 * 4 * frame_blocks
    assert saved["camera head"] == 7 * 4 * 4 * sizes["camera"]  # in each of four iterations
    assert saved["dense heads"] == 7 * 4 * (sizes["depth"] + sizes["points"])
    assert {name: cost.operations for name, cost in eight.items()} == {
        name: 8 * cost.operations for name, cost in one.items()
    }


def test_the_floor_is_what_takes_longer():
    assert Cost(operations=100, bytes=10, trunk=True).floor(rate=50, bandwidth=10) == 2
    assert Cost(operations=100, bytes=40, trunk=True).floor(rate=50, bandwidth=10) == 4


@pytest.mark.parametrize("live", [3 * 1041, 50_000])
def test_the_documented_counts(live):
    """docs/performance.md has these numbers."""
    documented = (Path(__file__).parents[1] / "docs" / "performance.md").read_text()
    float32, bfloat16 = (
        step_costs(ModelConfig.vggt_1b(), 392, 518, live=live, trunk=trunk) for trunk in ("float32", "bfloat16")
    )
    for name, cost in float32.items():
        row = f"| {name} | {cost.operations / 1e9:,.1f} | {cost.bytes / 1e6:,.0f} | {bfloat16[name].bytes / 1e6:,.0f} |"
        assert row in documented
