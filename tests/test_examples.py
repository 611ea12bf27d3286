"""The numbered examples: short, and each runs as it stands."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = {path.stem: path for path in sorted((Path(__file__).parents[1] / "examples").glob("0*.py"))}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    """The lines that an example prints; what it writes goes to tmp_path."""

    def run(name: str) -> list[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES[name])])
        runpy.run_path(str(EXAMPLES[name]), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def test_examples_are_numbered_and_short() -> None:
    assert [name[:2] for name in EXAMPLES] == ["01", "02", "03", "04", "05", "06", "07", "08", "09"]
    for path in EXAMPLES.values():
        code = path.read_text()
        assert len(code.splitlines()) < 45
        assert f"python examples/{path.name}" in code.splitlines()[0]


def test_poses_and_depth(run) -> None:
    lines = run("01_poses_and_depth")
    assert len(lines) == 6
    assert all(line.startswith(f"frame {number}: camera at [") for number, line in enumerate(lines))


def test_an_endless_stream_keeps_no_more_than_its_budget(run) -> None:
    size, *lines = run("02_endless_stream")
    assert "MB, for ever" in size
    kept = [int(line.split()[1]) for line in lines]
    assert len(kept) == 30
    assert kept[0] < kept[5] <= 2_000 and max(kept) <= 2_000
    assert np.ptp(kept[10:]) < 20  # rounded shares of the budget


def test_many_streams(run) -> None:
    lines = run("03_many_streams")
    assert lines[0] == "poses (4, 3, 9), frames seen by each stream: [4 4 4]"
    assert lines[1] == "poses (4, 3, 9), frames seen by each stream: [8 8 8]"
    assert lines[2] == "after the reset of the second: [8 0 8]"


def test_export(run, tmp_path: Path) -> None:
    lines = run("04_export")
    assert {"frames", "images", "sparse", "trajectory.txt", "transforms.json"} <= set(lines)
    out = tmp_path / "ivggt_out" / "example"
    frames = json.loads((out / "transforms.json").read_text())["frames"]
    assert [frame["file_path"] for frame in frames] == [f"images/{number:06d}.jpg" for number in range(8)]
    assert all((out / "sparse" / "0" / f"{name}.bin").stat().st_size for name in ("cameras", "images", "points3D"))


@pytest.mark.slow
def test_an_own_policy_is_obeyed(run) -> None:
    lines = run("05_own_policy")
    assert lines[0].startswith("diversity: ") and "oldest_patches: " in "".join(lines)
    text = "".join(lines).split("oldest_patches: ")[1]
    kept = [int(word) for word in text.split("[")[1].rstrip("]").split()]
    assert len(kept) == 30
    assert kept[0] == kept[-1] == 53  # the first frame is the anchor, the last is new
    assert kept[1] == 0 and kept[-2] == 53
    assert any(0 < count < 53 for count in kept[2:-2])  # camera and register tokens of older frames


@pytest.mark.slow
def test_a_calibrated_camera_is_believed(run) -> None:
    predicted, known = run("06_calibrated_camera")
    assert known.startswith("known: 65.6") and predicted.startswith("predicted: ")


@pytest.mark.slow
def test_a_depth_sensor_gives_metres(run) -> None:
    without, with_sensor = (int(line.split("off by ")[1].split("%")[0]) for line in run("07_depth_sensor"))
    assert with_sensor < 25 < without


@pytest.mark.slow
def test_an_artefact_runs_by_itself(run) -> None:
    assert run("08_deploy") == ["camera (1, 3, 4) depth (1, 28, 42)"]


@pytest.mark.slow
def test_what_moves_has_clouds_of_its_own(run, tmp_path: Path) -> None:
    told, *files = run("09_moving_things")
    share, truly = (int(word.rstrip("%,")) for word in told.split() if "%" in word)
    assert 2 < share < 40 and 5 < truly < 30
    assert files == ["masks", "moving", "points.ply"]
    assert len(list((tmp_path / "ivggt_out" / "moving" / "moving").iterdir())) == 16
