"""`infer` with submaps: what it writes, says and refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import FRAMES, run

from ivggt_jax import ModelConfig
from ivggt_jax.infer import main
from ivggt_jax.mapping.options import LONG, SubmapOptions


def test_a_run_with_submaps_says_how_its_map_is_made(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    options = ("--frames", folder, "--checkpoint", checkpoint, "--out", out)
    assert run(main, *options, "--submaps", 3, "--no-refine") == 0
    assert "new submap every 3 frames" in capsys.readouterr().err
    lines = [line.split() for line in (out / "submaps.txt").read_text().splitlines()]
    assert lines[0][:3] == ["#", "id", "part"]
    rows = np.array(lines[1:], np.float64)
    np.testing.assert_array_equal(rows[:, 0], [0, 1])
    np.testing.assert_array_equal(rows[:, 2], [0, 3])
    np.testing.assert_allclose(rows[0, 3:], (1, 0, 0, 0, 0, 0, 0, 1, 0, 0))
    np.testing.assert_allclose(np.linalg.norm(rows[:, 7:11], axis=1), 1, atol=1e-6)
    assert 0 < rows[1, 11] <= 1
    record = json.loads((out / "run.json").read_text())
    assert record["submaps"]["frames"] == 3
    assert record["outputs"]["submaps"]["refused"] == FRAMES
    assert record["outputs"]["submaps"]["submaps"] == 2


def test_off_is_one_stream(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    for name, options in (("off", ("--submaps", "off")), ("auto", ())):
        assert run(main, "--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / name, *options) == 0
    assert not (tmp_path / "off" / "submaps.txt").exists()
    files = [(tmp_path / name / "trajectory.txt").read_bytes() for name in ("off", "auto")]
    assert files[0] == files[1]
    assert json.loads((tmp_path / "off" / "run.json").read_text())["submaps"] is None


@pytest.mark.parametrize("value", ["1", "0", "-3", "many", "2.5", ""])
def test_other_values_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="--submaps"):
        SubmapOptions(submaps=value)


def test_auto_is_by_model_and_length() -> None:
    auto = SubmapOptions()
    demo, published = ModelConfig.demo(), ModelConfig.vggt_1b()
    for model in (demo, replace(demo, predicts=("camera", "depth"))):
        found = auto.choose(model, 10)
        assert found is not None
        assert found.frames == 32
    assert auto.choose(published, LONG) is None
    for length in (LONG + 1, None):
        submaps = auto.choose(published, length)
        assert submaps is not None
        assert submaps.frames * published.tokens_per_frame(392, 518) * published.depth == 1_199_232
    assert SubmapOptions(submaps="off").choose(demo, None) is None
