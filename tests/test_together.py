"""What a GPU is spared: layers that are brought down to their budgets together keep what each would have kept for itself.

That is done where kernels read the cache in place, on a GPU; here it is done on a CPU all the same. Streams of the tiny model, as
in `streaming`, two of them, 8 frames.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np
import pytest
from exact import exact
from lowering import for_cuda, questions
from streaming import BOUNDED, TOKENS, assert_close, assert_same_stream, start

from ivggt_jax import CacheConfig, Model, ModelConfig, init_stream, scan, step
from ivggt_jax.memory import token_memory
from ivggt_jax.model.parameters import abstract_model

AFTER = replace(BOUNDED, evict_after_attention=True)


def traced_anew(function) -> Callable:
    """A jitted function, as another: JAX would remember how it was traced before something was patched."""
    return exact(lambda *arguments: function.__wrapped__(*arguments))


@pytest.mark.parametrize(
    "cache",
    [
        AFTER,
        replace(
            BOUNDED,
            frames_per_step=2,
            dtype="int8",
            policy="attention",
            total_budget=4 * 5 * TOKENS,
            anchor_frames=3,
            protect_special=True,
        ),  # fmt: skip
    ],
    ids=["some streams", "two frames a pass, int8, attention, anchors"],
)
def test_the_same_tokens_stay(cache: CacheConfig, tiny: Model, videos: np.ndarray, monkeypatch):
    """Scores within 1e-6, for sums of more streams go another way, features within 1e-5; a stream may miss every other frame."""
    states, found = [], []
    for together in (True, False):
        monkeypatch.setattr(token_memory, "can_read", lambda keys, together=together: together)
        state = start(tiny, cache, batch=2, heads=())
        if cache is AFTER:
            fed = traced_anew(step)
            for frame in range(8):
                state, predictions = fed(tiny, state, videos[frame, :2], np.array([True, frame % 2 == 0]))
        else:
            state, predictions = traced_anew(scan)(tiny, state, videos[:8, :2])
        states.append(state)
        found.append(jax.tree.map(np.asarray, predictions))
    assert_close(*found)
    for stream in range(2):
        assert_same_stream(states[0], stream, states[1], stream)


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (CacheConfig(total_budget=4 * 600), 8),
        (CacheConfig(total_budget=4 * 600, evict_after_attention=True), 2),
        (CacheConfig(total_budget=4 * 600, evict_after_attention=True, policy="residual"), 8),
    ],
    ids=["before attention", "after", "by a number that comes late"],
)
def test_what_the_host_is_asked(cache: CacheConfig, expected: int):
    """Twice in each of four layers, or twice in a frame: lowered for a GPU, the tiny model in float32."""
    asked = questions(lowered(cache, "gpu"))
    assert len(asked) == expected and not any(inside for _, inside in asked)


def test_the_cache_passes_through_no_conditional():
    """Lowered for a GPU: XLA of JAX 0.10 would copy all of it. What a conditional returns has no channels, the fifth dimension."""
    returned = re.findall(
        r"\}\) : \(tensor<i32>\) -> (.*)", lowered(CacheConfig(total_budget=4 * 600), "gpu").as_text()
    )
    assert returned and not any(re.search(r"tensor<(\d+x){5}", types) for types in returned)


@pytest.mark.parametrize(("platform", "loops"), [("gpu", False), ("cpu", True)])
def test_weights_are_taken_from_their_stack_by_a_loop_only_on_a_cpu(platform, loops):
    """On a GPU that would copy them: as lowered, no slice at a place known only when it runs is cut out of a weight."""
    program = lowered(CacheConfig(total_budget=4 * 600), platform).as_text()
    # Query, keys and values: of encoder and aggregator (64 channels), and of the camera head (128).
    cut = re.findall(r"stablehlo.dynamic_slice .*: \(tensor<(?:2x64x192|4x64x192|2x128x384)xf32>", program)
    assert bool(cut) == loops


def lowered(cache: CacheConfig, platform: str) -> jax.stages.Lowered:
    """The tiny model's step with the camera head, for a CPU or a GPU."""
    model = abstract_model(ModelConfig.tiny(), "float32")
    state = jax.eval_shape(lambda: init_stream(model, cache, height=28, width=42, heads=("camera",)))
    frame = jax.ShapeDtypeStruct((1, 28, 42, 3), np.uint8)
    return for_cuda(step, model, state, frame) if platform == "gpu" else step.lower(model, state, frame)
