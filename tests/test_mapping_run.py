"""A run with submaps computes with the program that was compiled for it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from ivggt_jax import CacheConfig, Model, SubmapConfig, init_stream, step
from ivggt_jax.mapping.moving_window import MovingWindow
from ivggt_jax.runs.moving import MovingThings
from ivggt_jax.runs.progress import Progress
from ivggt_jax.runs.run import Run, compile_step, computed
from ivggt_jax.sources.frame import Fit, Frame
from ivggt_jax.streaming.moving import judged
from ivggt_jax.writers import ExportOptions, Writers


@pytest.mark.parametrize("moving", [False, True])
def test_what_is_compiled_beforehand_is_what_a_run_computes_with(tiny: Model, tmp_path: Path, moving: bool):
    """Three frames of 28×42, the second of them masked in part: nothing is compiled anew once the first of them comes."""
    cache, submaps = CacheConfig(total_budget=600), SubmapConfig(frames=2)
    begin = partial(init_stream, tiny, cache, height=28, width=42, heads=("camera", "depth"), submaps=submaps)
    compile_step(tiny, begin(), moving)
    compiled = [program._cache_size() for program in (step, judged)]  # type: ignore[attr-defined]
    state = begin()
    run = Run(
        tiny, state, Writers([], tmp_path, ExportOptions()), Progress(None, 0, state), points_from_depth=True,
        instead=MovingThings(tiny, state) if moving else None, without_moving=moving,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    fit = Fit((42, 28), (1.0, 1.0), (0.0, 0.0))
    masks = (None, rng.uniform(size=(28, 42)) < 0.5, None)
    frames = [
        Frame(rng.integers(0, 256, (28, 42, 3), np.uint8), i, None, str(i), fit, mask) for i, mask in enumerate(masks)
    ]
    run.feed(iter(frames), [])
    assert run.frames == 3
    assert [program._cache_size() for program in (step, judged)] == compiled  # type: ignore[attr-defined]


def test_what_moved_is_masked_in_the_next_frame(tiny: Model):
    """As if the user had masked it, and around it, beside what the user masks; in a frame of 28×42."""
    cache, submaps = CacheConfig(total_budget=600), SubmapConfig(frames=2)
    begin = partial(init_stream, tiny, cache, height=28, width=42, heads=("camera", "depth"), submaps=submaps)
    rng, own = np.random.default_rng(0), np.ones((28, 42), bool)
    own[:, :9] = False
    image, fit = rng.integers(0, 256, (28, 42, 3), np.uint8), Fit((42, 28), (1.0, 1.0), (0.0, 0.0))
    window = replace(MovingWindow.empty(28, 42, by_head=False), moving=np.arange(42) * np.ones((28, 1)) > 30)
    saved = {f"moving window/{number}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(window))}
    state = begin()
    watch = MovingThings(tiny, state, saved)
    masked, plain = begin(), begin()
    state, _ = watch.compute(state, [Frame(image, 0, None, "0", fit, own)])
    still = own & (np.arange(42) < 30)
    masked, _ = computed(tiny, masked, [Frame(image, 0, None, "0", fit, still)])
    plain, _ = computed(tiny, plain, [Frame(image, 0, None, "0", fit, own)])
    told, given, without = (np.asarray(found.map.keyframes.known) for found in (state, masked, plain))
    np.testing.assert_array_equal(told, given)
    assert (told != without).any()
