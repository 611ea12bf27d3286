"""The doctor's findings, from made-up installations and machines; the self-test on this one."""

import re

import jax
import numpy as np
import pytest

from ivggt_jax import ModelConfig, doctor
from ivggt_jax.doctor import Finding, devices, folders, main, memory, nvidia_wheels, self_test, versions
from ivggt_jax.runs.room import Room


def room(free: int) -> Room:
    return Room(free, "this machine's memory")


def levels(findings) -> list[str]:
    return [finding.level for finding in findings]


@pytest.mark.parametrize(
    ("installed", "level", "words"),
    [
        ("jax", "ok", "none"),
        ("jax-cuda13-plugin nvidia-cudnn-cu13 nvidia-cublas", "ok", "CUDA 13"),
        ("jax-cuda12-plugin nvidia-cudnn-cu12 nvidia-nccl-cu13 torch", "problem", "CUDA 12 and CUDA 13"),
        ("jax-cuda12-pjrt jax-cuda13-pjrt", "problem", "fresh environment"),
        ("jax-cuda13-plugin nvidia-cudnn-cu13 torch", "note", "PyTorch 1 and JAX share"),
        ("torch nvidia-cudnn-cu13", "ok", "CUDA 13"),
    ],
)
def test_wheels_that_overwrite_each_other_are_found(installed: str, level: str, words: str) -> None:
    (finding,) = nvidia_wheels(dict.fromkeys(installed.split(), "1"))
    assert finding.level == level and words in finding.text


def test_a_gpu_that_jax_does_not_use_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(devices({})) == ["ok"]
    monkeypatch.setattr(doctor, "_nvidia_cards", lambda: ["H200, driver 580, 143771 MiB"])
    assert [finding.text for finding in devices({})][1:] == [
        "GPU H200, driver 580, 143771 MiB",
        "JAX_PLATFORMS=cpu keeps JAX off the GPU",
    ]
    monkeypatch.delenv("JAX_PLATFORMS")
    assert "ivggt_jax[cuda13]" in list(devices({}))[2].text
    assert "does not start" in list(devices({"jax-cuda13-plugin": "0.10"}))[2].text


def test_the_budget_quoted_is_one_that_fits() -> None:
    """Float32 on a CPU: 4.6 GB of weights, a default cache of 15.3 GB, of both of which 60 % of the memory are used."""
    config = ModelConfig.vggt_1b()
    assert levels(memory(room(100 * 10**9), config)) == ["ok", "ok"]
    first, second = memory(room(20 * 10**9), config)
    assert "weights take 4.6 GB with camera and depth" in first.text and "1,200,000 tokens 15.3 GB" in first.text
    tokens = int(re.search(r"a cache of ([\d,]+) tokens", second.text)[1].replace(",", ""))
    assert 0.5 < tokens / (1_200_000 * 0.6 * 15 / 15.3) < 1.1
    for free in (
        4_700_000_000,
        5_800_000_000,
    ):  # with the second, weights and the least stream fit, but no step beside them
        assert "does not fit" in list(memory(room(free), config))[1].text


def test_versions_and_folders(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    found = list(versions({"jax": "0.10.2"}))
    assert "jax 0.10.2" in found[1].text and "ivggt_jax[rerun]" in found[2].text
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "weights").write_bytes(bytes(10**8))
    monkeypatch.setenv("IVGGT_CACHE", str(tmp_path / "cache"))
    assert "holds 0.1 GB" in next(folders()).text
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert levels(folders()).count("problem") == 1
    monkeypatch.undo()
    kept = jax.config.values["jax_compilation_cache_dir"]
    try:
        for folder, problems in ((str(tmp_path), 0), (None, 1)):
            jax.config.update("jax_compilation_cache_dir", folder)
            assert levels(folders()).count("problem") == problems
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)


def test_the_self_test_passes_and_notices_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(self_test()) == ["ok"]
    real = doctor.stream
    monkeypatch.setattr(doctor, "stream", lambda *a, **k: [p for p in real(*a, **k)][::-1])
    assert levels(self_test()) == ["problem"]
    monkeypatch.setattr(doctor, "stream", lambda *a, **k: [type("P", (), {"depth": np.full((28, 42), np.nan)})] * 3)
    assert levels(self_test()) == ["problem"]


def test_jax_that_does_not_start_is_a_problem(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """All other checks are made."""

    def broken() -> None:
        raise RuntimeError("Unable to initialize backend 'cuda'\nat length")

    monkeypatch.setattr("jax.local_devices", broken)
    monkeypatch.setattr(doctor, "self_test", lambda: iter(()))
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 1
    shown = capsys.readouterr().out
    assert "problem  RuntimeError: Unable to initialize backend 'cuda'\n" in shown and "IVGGT_CACHE" in shown


def test_the_command_prints_all_and_fails_for_a_problem(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(doctor, "self_test", lambda: iter([Finding("problem", "self-test: broken")]))
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 1
    shown = capsys.readouterr().out
    assert "problem  self-test: broken" in shown and shown.endswith("1 problem found\n")
    assert "JAX computes on" in shown and "IVGGT_CACHE" in shown
