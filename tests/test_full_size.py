"""The published size on a machine without a GPU: 1,256,537,516 parameters in float32 within 12 GB of resident memory."""

import multiprocessing
import sys

import jax
import numpy as np
import pytest
from recipe import Recipe
from resident import resident_bytes

from ivggt_jax import CacheConfig, ModelConfig, init_stream, step
from ivggt_jax.convert import from_torch

FRAMES = 5
"""The budget is three frames a layer: the fourth and the fifth evict."""


def run(height: int, width: int, total_budget: int) -> dict[str, object]:
    """A few frames of noise through the full model with recipe weights, in a process of its own."""
    model = from_torch(Recipe("full"), ModelConfig.vggt_1b(), dtype=np.float32)
    state = init_stream(model, CacheConfig(total_budget=total_budget), height=height, width=width)
    images = np.random.default_rng(0).integers(0, 256, (FRAMES, 1, height, width, 3), dtype=np.uint8)
    finite = True
    for image in images:
        state, predictions = step(model, state, image)
        finite &= all(bool(np.isfinite(x).all()) for x in jax.tree.leaves(predictions))
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(model.params)),
        "finite": finite,
        "depth": predictions.depth.shape,
        "lengths": np.asarray(state.lengths[0]),
        "budgets": np.asarray(state.budgets[0]),
        "peak": resident_bytes(peak=True),
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("height", "width", "total_budget"), [(140, 182, 9_720), (392, 518, 74_952)])
def test_streams_within_twelve_gigabytes(height, width, total_budget):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(run, (height, width, total_budget))
    print(f"\n{height}×{width}: {found['peak'] / 1e9:.2f} GB resident at most")
    assert found["parameters"] == 1_256_537_516
    assert found["finite"]
    assert found["depth"] == (1, height, width)
    # A layer may have fewer tokens than it is allowed: its budget can rise faster than frames arrive.
    assert (found["lengths"] <= found["budgets"]).all()
    assert found["lengths"].sum() > 0.95 * total_budget
    assert total_budget - 24 <= found["budgets"].sum() <= total_budget
    assert found["peak"] < 12e9
