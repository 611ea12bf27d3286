"""The converter at the published size: 1,797 tensors, 1,256,537,516 parameters, to the bit and within 1 GB of memory of its own."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from recipe import Recipe

from ivggt_jax import load
from ivggt_jax.convert.torch_file import open_tensors
from ivggt_jax.convert.torch_writer import write_torch

RECIPE = Recipe("full")
GIGABYTE = 10**9


def write_pytorch(path: Path, dtype: str, nested: bool, prefix: str) -> None:
    """The recipe as PyTorch writes it; without PyTorch as `to_torch` does."""
    try:
        import torch
    except ImportError:
        layout = {prefix + name: (tuple(shape), np.dtype(dtype)) for name, shape in RECIPE.shapes.items()}
        write_torch(path, layout, lambda name: RECIPE[name.removeprefix(prefix)].astype(dtype))
        return
    state = {prefix + name: torch.from_numpy(x).to(getattr(torch, dtype)) for name, x in RECIPE.items()}
    torch.save({"model": state, "epoch": 1} if nested else state, path)


def command(*arguments: object) -> int:
    """Runs `python -m convert`; returns the most anonymous memory it was seen with, in bytes."""
    process = subprocess.Popen([sys.executable, "-m", "convert", *map(str, arguments)])
    most = 0

    def watch() -> None:
        nonlocal most
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            most = max(
                [most, *(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))]
            )
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.wait(timeout=1200) == 0
    watcher.join()
    return most


def assert_recipe(path: Path, dtype: str) -> None:
    """Every tensor of a file under PyTorch's names is the recipe's, rounded once to `dtype`, to the bit."""
    tensors = open_tensors(path)
    assert tensors.keys() == RECIPE.keys() and len(tensors) == 1797
    for name, x in tensors.items():
        expected = RECIPE[name].astype(dtype)
        assert np.array_equal(x.astype(np.float32), expected.astype(np.float32)), name
        assert x.dtype in (expected.dtype, np.float32), name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("dtype", "nested", "prefix"),
    [("float32", False, ""), ("float32", True, "module."), ("bfloat16", True, "")],
)
def test_the_published_size_to_the_bit(tmp_path, dtype, nested, prefix):
    write_pytorch(tmp_path / "theirs.pth", dtype, nested, prefix)
    there = command(tmp_path / "theirs.pth", tmp_path / "ours")
    (tmp_path / "theirs.pth").unlink()
    began = time.perf_counter()
    model = load(tmp_path / "ours", np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    seconds = time.perf_counter() - began
    del model
    back = command(tmp_path / "ours", tmp_path / "back.pth", "--to", "torch")
    print(f"\n{dtype}: {there / 1e6:.0f} MB there, {back / 1e6:.0f} MB back, loaded in {seconds:.2f} s")
    assert_recipe(tmp_path / "back.pth", dtype)
    assert there < GIGABYTE and back < GIGABYTE
