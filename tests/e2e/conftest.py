"""What the tests of commands share: a checkpoint on disk, and a folder of frames."""

from pathlib import Path

import numpy as np
import pytest
from commands import FRAMES, write_frames

from ivggt_jax import Model, save


@pytest.fixture(scope="session")
def checkpoint(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a checkpoint directory."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    save(tiny, path)
    return path


@pytest.fixture
def folder(tmp_path: Path, frames: np.ndarray) -> Path:
    """img1.png … img5.png, 70×56: what the model sees is exactly what lies here."""
    return write_frames(tmp_path / "frames", frames[:FRAMES])
