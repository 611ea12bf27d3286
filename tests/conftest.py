"""What all tests share: JAX on the CPU with a compilation cache, and the tiny model whose outputs are known."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

from exact import COARSE

os.environ.setdefault("XLA_FLAGS", COARSE)

import jax
import numpy as np
import pytest
from checked import checking_shapes
from recipe import GOLDEN, Recipe

with checking_shapes():
    from ivggt_jax import Model, ModelConfig
from ivggt_jax.convert import from_torch

jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="module", autouse=True)
def few_mappings() -> Iterator[None]:
    """Compiled programs lie in mapped memory, of which Linux grants a process 65,530 pieces: some are let go in time."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_text().splitlines()) > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module", autouse=True)
def flags_stay() -> Iterator[None]:
    """No file leaves flags that programs started by later tests would read. With XLA's for dumping, those crashed now and then."""
    before = flags()
    yield
    assert flags() == before


def flags() -> dict[str, str]:
    """What of the environment XLA and JAX read."""
    return {name: value for name, value in os.environ.items() if name.startswith(("XLA_", "JAX_"))}


@pytest.fixture(scope="session")
def tiny() -> Model:
    """The model that the golden numbers were made with."""
    return from_torch(Recipe("tiny"), ModelConfig.tiny(), dtype=np.float32)


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    """The golden frames, [16,56,70,3] in [0,1]."""
    return np.ascontiguousarray(np.load(GOLDEN / "tiny_frames.npz")["images"].transpose(0, 2, 3, 1))


@pytest.fixture(scope="session")
def videos(frames: np.ndarray) -> np.ndarray:
    """Three streams of 16 different small frames, [T,B,28,42,3]."""
    crops = [frames[:, :28, :42], frames[::-1, 28:, 28:], frames[:, 14:42, 14:56] ** 2]
    return np.stack(crops, axis=1)
