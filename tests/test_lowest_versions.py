"""Every lower bound in pyproject.toml, installed at once and tested: what is allowed must work."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTED = (
    "test_imports.py",
    "test_sources_*.py",
    "test_writers*.py",
    "test_checkpoint.py",
    "test_tensor_file.py",
    "test_hub*.py",
    "test_mapping_graph.py",
    "test_view.py",
    "test_optimizer.py",
    "test_metrics.py",
    "test_data_batches.py",
    "test_evaluate_trajectory.py",
    "test_stream.py::test_scan_equals_steps",
    "e2e/test_infer.py::test_outputs_equal_the_library",
    "e2e/test_infer.py::test_bad_input_is_one_clear_line",
    "e2e/test_export.py",
)
"""Tests that use each of the libraries, and few of what the commands do: compiling anew takes a minute each."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv, which finds the lowest versions")
def test_the_lowest_versions_that_are_allowed(tmp_path: Path) -> None:
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run(["uv", "venv", "--python", version, tmp_path / "venv"], check=True)
    subprocess.run(
        [
            "uv",
            "pip",
            "install",
            "--python",
            python,
            "--resolution",
            "lowest-direct",
            "-e",
            f"{ROOT}[test,camera,rerun,ros]",
        ],
        check=True,
    )
    tests = [pattern.partition("::") for pattern in TESTED]
    chosen = [f"{path}{mark}{name}" for files, mark, name in tests for path in sorted((ROOT / "tests").glob(files))]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen], check=True, cwd=ROOT, env=environment
    )
