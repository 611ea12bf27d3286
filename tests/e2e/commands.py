"""Running the project's commands: in this process, or in one of their own that can be killed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
import pytest
from exact import as_users_do
from PIL import Image

FRAMES = 5
"""In the folder that most tests read."""
PATIENCE = 600
"""Seconds after which a command on a busy machine is taken for stuck."""


def run(main: Callable[[list[str]], NoReturn], *arguments: object) -> int:
    """The command's exit code, run here."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def start(module: str, *arguments: object, limit: str = "true") -> subprocess.Popen:
    """The command in a process of its own, after a shell command that limits it; standard error is a pipe."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        "PYTHONFAULTHANDLER": "1",
        "XLA_FLAGS": as_users_do(),
    }
    line = [
        "bash",
        "-c",
        f'{limit}; exec "$@"',
        "bash",
        sys.executable,
        "-m",
        f"ivggt_jax.{module}",
        *map(str, arguments),
    ]
    return subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)


def finish(module: str, *arguments: object) -> str:
    """What the command says on standard error, run to its end in a process of its own; it must succeed."""
    process = start(module, *arguments)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    return error


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for something that a running process brings about; fails when it ends first."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"it ended with {process.returncode}: {process.communicate()[1]}"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def write_frames(path: Path, frames: np.ndarray) -> Path:
    """img1.png, img2.png, … from frames [S,H,W,3] in [0,1]."""
    path.mkdir()
    for i, frame in enumerate(frames, 1):
        Image.fromarray(np.round(255 * frame).astype(np.uint8)).save(path / f"img{i}.png")
    return path


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, which is closed again: a test's frame may live on in a traceback, and its open files with it."""
    with np.load(path) as file:
        return dict(file)
