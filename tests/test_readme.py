"""The README's Python, run as it stands but for the size of the model, and read by the type checker."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ivggt_jax
from ivggt_jax import Model, Predictions

SNIPPETS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)
BIG_TO_SMALL = {
    "frames, CacheConfig(total_budget=300_000)": "frames, CacheConfig(total_budget=500)",
    "CacheConfig(total_budget=300_000), height=392, width=518": "CacheConfig(total_budget=500), height=28, width=42",
}
"""What is replaced, so that the tiny model's streams of 28×42 pixels take no gigabytes."""
GIVEN = """
from collections.abc import Iterable
from typing import Any
frames: Iterable[np.ndarray[Any, Any]] = []
batch_of_frames = np.zeros((4, 392, 518, 3), np.uint8)
"""
"""What the snippets take for granted, for the type checker."""


def test_the_snippets_run(tiny: Model, videos: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(ivggt_jax, "load", lambda name: loaded.append(name) or tiny)
    frames = (255 * videos[:3, 0]).astype(np.uint8)
    known: dict[str, Any] = {"frames": iter(frames), "batch_of_frames": np.stack([frames[0]] * 4)}
    code = "\n".join(SNIPPETS)
    for big, small in BIG_TO_SMALL.items():
        assert code.count(big) == 1
        code = code.replace(big, small)
    exec(code, known)
    assert loaded == ["lch01/StreamVGGT"] and not list(known["frames"])
    assert known["points"].shape == (28, 42, 3) and known["predictions"].depth.shape == (4, 28, 42)
    assert isinstance(known["predictions"], Predictions)
    np.testing.assert_array_equal(known["state"].frame, [0, 1, 1, 1])


def problems(code: str, folder: Path) -> list[str]:
    """What mypy in its strict mode says of a program, kind by kind."""
    (folder / "snippet.py").write_text(code)
    line = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), "snippet.py"]
    environment = {**os.environ, "MYPYPATH": str(Path(__file__).parents[1])}
    found = subprocess.run(line, capture_output=True, text=True, cwd=folder, timeout=600, env=environment)
    assert found.stdout, found.stderr
    return re.findall(r"^snippet.py:.*\[([\w-]+)\]$", found.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_snippets_are_typed_and_mistakes_are_seen(tmp_path: Path) -> None:
    """Of a policy, a head, an argument and a field; mypy reads JAX for it."""
    code = SNIPPETS[0].replace("\nmodel =", f"{GIVEN}\nmodel =", 1) + "".join(SNIPPETS[1:])
    assert problems(code, tmp_path) == []
    wrong = (
        "CacheConfig(policy='diversty')\nstream(model, frames, heads=('camra',))\nstep(model)\npredictions.nothing\n"
    )
    assert problems(f"{code}\n{wrong}", tmp_path) == ["arg-type", "arg-type", "call-arg", "attr-defined"]
