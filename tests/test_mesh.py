"""Devices and processes: what goes where, and that several give one's result.

The runs are those of small_training.py, eight steps, compared with one device's. Losses agree to 1e-4 of their value:
a mean over devices rounds differently, and eight steps of Adam enlarge that. Depth's error, which is after a scale that
is a median, agrees to 5e-4.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small_training
from exact import COARSE
from jax.sharding import PartitionSpec as P

from ivggt_jax.train.mesh import make_mesh, place, process_rows, shardings, start_processes

SCRIPT = Path(small_training.__file__)
TOLERANCE = {"loss": 1e-4, "gradient_norm": 1e-4, "abs_rel": 5e-4}
FOUR_DEVICES = f"--xla_force_host_platform_device_count=4 {COARSE}"
TWO_DEVICES = f"--xla_force_host_platform_device_count=2 {COARSE}"


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """Metrics of the run on one device."""
    out = tmp_path_factory.mktemp("alone")
    small_training.train(small_training.config(out))
    return read(out)


def read(out: Path) -> dict[str, list]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "loss": [line["loss"] for line in lines if line["split"] == "train"],
        "gradient_norm": [line["gradient_norm"] for line in lines if line["split"] == "train"],
        "abs_rel": [line["abs_rel"] for line in lines if line["split"] == "evaluation"],
    }


def assert_same(found: dict[str, list], expected: dict[str, list]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=TOLERANCE[name], err_msg=name)


def start(out: Path, *options: str, **environment: str) -> subprocess.Popen:
    environment = os.environ | environment | {"PYTHONPATH": str(SCRIPT.parents[1]), "JAX_PLATFORMS": "cpu"}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(jax.config.jax_compilation_cache_dir)
    command = [sys.executable, str(SCRIPT), str(out), *options]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes: subprocess.Popen, code: int = 0) -> None:
    try:
        errors = [process.communicate(timeout=1800)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(errors)


def two_processes(out: Path, *options: str) -> list[subprocess.Popen]:
    """Of two devices each, which find each other over loopback."""
    small_training.prepare(out)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    variables = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": TWO_DEVICES}
    return [start(out, *options, **variables, JAX_PROCESS_ID=str(process)) for process in range(2)]


@pytest.mark.slow
def test_four_devices_give_the_result_of_one(alone: dict[str, list], tmp_path: Path) -> None:
    finish(start(tmp_path, "--fsdp", "2", XLA_FLAGS=FOUR_DEVICES))
    assert_same(read(tmp_path), alone)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 4])
def test_other_meshes_of_four_devices_do_too(fsdp: int, alone: dict[str, list], tmp_path: Path) -> None:
    finish(start(tmp_path, "--fsdp", str(fsdp), XLA_FLAGS=FOUR_DEVICES))
    assert_same(read(tmp_path), alone)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(alone: dict[str, list], tmp_path: Path) -> None:
    """Each loads half of every batch, and parameters are divided over both (fsdp 4)."""
    finish(*two_processes(tmp_path, "--fsdp", "4"))
    assert_same(read(tmp_path), alone)
    assert (tmp_path / "best" / "model.safetensors").exists()


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step_and_go_on(alone: dict[str, list], tmp_path: Path) -> None:
    """A SIGTERM to one of them is enough."""
    processes = two_processes(tmp_path, "--stop-at", "3")
    finish(*processes, code=130)
    assert len(read(tmp_path)["loss"]) < small_training.STEPS
    finish(*two_processes(tmp_path))
    assert_same(read(tmp_path), alone)


def test_parameters_are_divided_along_their_largest_divisible_axis() -> None:
    """Four devices of which there is one: shardings need no more than a mesh's shape."""
    mesh = jax.sharding.AbstractMesh((1, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    shapes = {"stack": (24, 1024, 4096), "odd": (3, 9), "middle": (8, 6, 2), "scalar": (), "few": (2, 2)}
    found = shardings(mesh, {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()})
    assert {name: sharding.spec for name, sharding in found.items()} == {
        "stack": P(None, None, "fsdp"), "odd": P(), "middle": P("fsdp"), "scalar": P(), "few": P(),
    }  # fmt: skip


def test_one_device_holds_everything() -> None:
    mesh = make_mesh()
    assert mesh.shape == {"data": 1, "fsdp": 1}
    assert shardings(mesh, jax.ShapeDtypeStruct((8, 8), "float32")).spec == P()
    assert process_rows(mesh, 6) == slice(0, 6)
    batch = place(mesh, {"images": np.arange(12.0, dtype=np.float32).reshape(6, 2)})
    np.testing.assert_array_equal(batch["images"], np.arange(12.0).reshape(6, 2))


def test_what_devices_cannot_share_is_an_error() -> None:
    with pytest.raises(ValueError, match="fsdp must divide the number of devices, 1; 2 does not"):
        make_mesh(fsdp=2)
    mesh = jax.sharding.AbstractMesh((2, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with pytest.raises(ValueError, match="a batch of 6 clips cannot be shared by 4 devices"):
        process_rows(mesh, 6)


def test_processes_that_cannot_be_found_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES"):
        start_processes()
