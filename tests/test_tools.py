"""The programs in tools/ still fit what they measure."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

TOOLS = Path(__file__).parents[1] / "tools"
PROGRAMS = [*sorted(TOOLS.glob("*/*.py"))]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Imports a program of tools/ beside those that lie with it; they are forgotten afterwards."""

    def load_one(path: Path):
        monkeypatch.syspath_prepend(path.parent)
        for name in [other.stem for other in PROGRAMS]:
            monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(path.stem)

    yield load_one
    for path in PROGRAMS:
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_they_can_be_imported(load, path: Path) -> None:
    """What they need of the package is there, under the names that they use."""
    assert load(path).__doc__


def test_kernels_of_a_program_are_counted(load) -> None:
    """A loop of five rounds, compiled for this device: what is in it counts five times."""
    program = load(TOOLS / "gpu" / "program.py")
    x = jnp.ones((64, 64))
    text = jax.jit(lambda x: jax.lax.fori_loop(0, 5, lambda _, y: jnp.sin(y @ x), x)).lower(x).compile().as_text()
    found = list(program.executed(*program.computations(text), 1))
    assert 5 in {times for times, *_ in found}
    assert program.size("(f32[2,3], bf16[4]{0})") == 32


def test_distances_are_relative(load) -> None:
    kernels = load(TOOLS / "gpu" / "kernels.py")
    assert kernels.distance(jnp.full(4, 1.01), np.ones(4)) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.slow
def test_the_next_measurement_runs(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of tools/gpu/measure.py, with the tiny model on whatever is there."""
    measure = load(TOOLS / "gpu" / "measure.py")
    words = ["measure.py", "--out", str(tmp_path / "gpu.json"), "--sections", "steps", "--case.model", "tiny"]
    monkeypatch.setattr(sys, "argv", words)
    measure.main()
    assert '"steps"' in (tmp_path / "gpu.json").read_text()
