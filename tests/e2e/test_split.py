"""`--split`: one source on several processes gives what one gives, whatever the map says of where submaps begin."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import read_npz, run, write_frames

from ivggt_jax.infer import main
from ivggt_jax.split import pool
from test_fleet import write_video

OPTIONS = ("--budget", 290, "--submaps", 5, "--export", "tum", "npz", "--save-every", 0)


@pytest.fixture(autouse=True)
def as_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes compute with the precision of these tests, and share their compiled programs."""
    import jax

    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def both(source: Path, checkpoint: Path, out: Path, *options: object) -> tuple[Path, Path]:
    for name, words in (("one", ()), ("two", ("--split", 2))):
        assert run(main, source, "--checkpoint", checkpoint, "--out", out / name, *OPTIONS, *options, *words) == 0
    return out / "one", out / "two"


def table(path: Path) -> np.ndarray:
    return np.array([line.split() for line in path.read_text().splitlines() if not line.startswith("#")], np.float64)


def assert_same(one: Path, two: Path) -> None:
    for name in ("trajectory.txt", "submaps.txt"):
        np.testing.assert_allclose(table(two / name), table(one / name), atol=1e-5)
    records = [json.loads((out / "run.json").read_text()) for out in (one, two)]
    for name in ("frames", "submaps", "cache", "tokens_kept", "budgets_clipped", "tokens_dropped", "skipped"):
        assert records[0][name] == records[1][name], name
    files = [sorted(path.name for path in (out / "frames").iterdir()) for out in (one, two)]
    assert files[0] == files[1]
    for name in files[0]:
        found, wanted = read_npz(two / "frames" / name), read_npz(one / "frames" / name)
        assert found.keys() == wanted.keys()
        for key, array in wanted.items():
            if array.dtype.kind in "fc":
                np.testing.assert_allclose(found[key], array, rtol=1e-4, atol=1e-5, err_msg=f"{name}: {key}")
            else:
                np.testing.assert_array_equal(found[key], array)


def test_a_video_in_two_processes_is_the_video_in_one(checkpoint: Path, frames: np.ndarray, tmp_path: Path) -> None:
    write_video(tmp_path / "walk.mp4", np.resize(frames, (40, *frames.shape[1:])))
    assert_same(*both(tmp_path / "walk.mp4", checkpoint, tmp_path))
