"""A run with submaps computes with the program that was compiled for it."""

from functools import partial
from pathlib import Path

import numpy as np

from ivggt_jax import CacheConfig, Model, SubmapConfig, init_stream, step
from ivggt_jax.runs.progress import Progress
from ivggt_jax.runs.run import Run, compile_step
from ivggt_jax.sources.frame import Fit, Frame
from ivggt_jax.writers import ExportOptions, Writers


def test_what_is_compiled_beforehand_is_what_a_run_computes_with(tiny: Model, tmp_path: Path):
    """Three frames of 28×42, the second of them masked in part: nothing is compiled anew once the first of them comes."""
    cache, submaps = CacheConfig(total_budget=600), SubmapConfig(frames=2)
    begin = partial(init_stream, tiny, cache, height=28, width=42, heads=("camera", "depth"), submaps=submaps)
    compile_step(tiny, begin())
    compiled = step._cache_size()  # type: ignore[attr-defined]
    state = begin()
    run = Run(tiny, state, Writers([], tmp_path, ExportOptions()), Progress(None, 0, state), points_from_depth=True)
    rng = np.random.default_rng(0)
    fit = Fit((42, 28), (1.0, 1.0), (0.0, 0.0))
    masks = (None, rng.uniform(size=(28, 42)) < 0.5, None)
    frames = [
        Frame(rng.integers(0, 256, (28, 42, 3), np.uint8), i, None, str(i), fit, mask) for i, mask in enumerate(masks)
    ]
    run.feed(iter(frames), [])
    assert run.frames == 3
    assert step._cache_size() == compiled  # type: ignore[attr-defined]
