"""`infer` with submaps: what it writes, says and refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import FRAMES, run, write_frames

from ivggt_jax import ModelConfig, export
from ivggt_jax.infer import main
from ivggt_jax.mapping.loops import Proof, Scores
from ivggt_jax.mapping.map_files import loop_line, read_submaps, submap_line
from ivggt_jax.mapping.options import LONG, SubmapOptions
from ivggt_jax.runs.parts import warn_of_run


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
    np.testing.assert_array_equal(rows[:, 3], [0, 3])
    np.testing.assert_allclose(rows[0, 4:], (1, 0, 0, 0, 0, 0, 0, 1, 0, 0))
    np.testing.assert_allclose(np.linalg.norm(rows[:, 8:12], axis=1), 1, atol=1e-6)
    assert 0 < rows[1, 12] <= 1
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


@pytest.fixture(scope="module")
def looped(checkpoint: Path, frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over 30 frames, some of them again and again, with a submap every ten."""
    base = tmp_path_factory.mktemp("looped")
    folder = write_frames(base / "frames", np.resize(frames, (30, *frames.shape[1:])))
    options = ("--submaps", 10, "--no-refine", "--loops", "--checkpoint", checkpoint, "--export", "tum", "html")
    assert run(main, "--frames", folder, "--out", base / "out", *options) == 0
    return base / "out"


def test_a_run_with_loops_ends_with_a_corrected_map(looped: Path) -> None:
    assert {path.name for path in looped.iterdir()} >= {"trajectory.txt", "submaps.txt", "loops.txt", "frames"}
    assert not (looped / "scene.html").exists(), "it is built once, of the corrected map"
    corrected = looped / "corrected"
    assert {path.name for path in corrected.iterdir()} == {"trajectory.txt", "scene.html", "map.json"}
    record = json.loads((looped / "run.json").read_text())["outputs"]["loops"]
    assert record["places"]["seen"] == 3
    assert json.loads((corrected / "map.json").read_text())["submaps"] == 4


def test_a_correction_can_be_made_again_and_brought_to_a_known_trajectory(
    looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two more lines in loops.txt, with a shift in them, move what the run itself left where it was."""
    assert run(export.main, looped, "--corrected", "--to", "tum", "--into", tmp_path / "same") == 0
    for name in ("trajectory.txt", "map.json"):
        assert (tmp_path / "same" / name).read_bytes() == (looped / "corrected" / name).read_bytes()
    copy = tmp_path / "copy"
    shutil.copytree(looped, copy)
    chain = [record.world_from_submap for record in read_submaps(copy / "submaps.txt")]
    link = chain[0].inverse().after(chain[2])
    moved = replace(link, translation=link.translation + 0.02)
    with (copy / "loops.txt").open("a") as file:
        for _ in range(2):
            file.write(loop_line(Proof(0, 2, moved, Scores(1.0, 50, 40, 0.5), "accepted")) + "\n")
    known = copy / "corrected" / "trajectory.txt"
    capsys.readouterr()
    assert run(export.main, copy, "--corrected", "--align-to", known, "--to", "tum") == 0
    assert "corrected by 2 loops" in capsys.readouterr().err
    assert {path.name for path in (copy / "aligned").iterdir()} == {"trajectory.txt", "map.json", "alignment.json"}
    assert json.loads((copy / "aligned" / "map.json").read_text())["largest_move"] > 0.001


def test_results_that_lie_elsewhere_are_not_mixed(
    looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those in one folder are all moved in one way, by one trajectory."""
    copy, known, to = tmp_path / "copy", tmp_path / "known.txt", ("--to", "tum")
    shutil.copytree(looped, copy)
    shutil.copy(looped / "trajectory.txt", known)
    assert run(export.main, copy, "--align-to", known, *to) == 0
    assert run(export.main, copy, "--align-to", known, *to) == 0
    capsys.readouterr()
    others = ("--align-to", shutil.copy(known, tmp_path / "other.txt")), ("--scale-from", known)
    for options in (("--corrected", "--align-to", known), *others):
        assert run(export.main, copy, *options, *to) == 1
        assert f"aligned holds results that are aligned to {known}" in capsys.readouterr().err
    assert run(export.main, copy, "--corrected", "--into", tmp_path / "into", *to) == 0
    assert run(export.main, copy, "--into", tmp_path / "into", *to) == 1
    assert "into holds results that are corrected" in capsys.readouterr().err


def test_the_map_is_corrected_whatever_is_written(checkpoint: Path, looped: Path, tmp_path: Path) -> None:
    """Nothing else is made at the end, but the viewer shows the corrected map."""
    options = ("--submaps", 10, "--no-refine", "--loops", "--checkpoint", checkpoint, "--export", "npz")
    frames, known, out = looped.parent / "frames", looped / "trajectory.txt", tmp_path / "out"
    assert run(main, "--frames", frames, "--out", out, "--align-to", known, *options) == 0
    assert {path.name for path in (out / "aligned").iterdir()} == {"map.json", "alignment.json"}
    assert (out / "corrected" / "map.json").read_bytes() == (looped / "corrected" / "map.json").read_bytes()


def broken(looped: Path, copy: Path) -> Path:
    """A copy of the run whose map breaks before its third submap."""
    shutil.copytree(looped, copy)
    records = read_submaps(copy / "submaps.txt")
    header = (copy / "submaps.txt").read_text().splitlines()[0]
    lines = [submap_line(replace(record, part=int(record.submap >= 2))) for record in records]
    (copy / "submaps.txt").write_text("\n".join([header, *lines, ""]))
    return copy


def test_parts_of_a_map_are_said(looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = read_submaps(looped / "submaps.txt")[2].first
    parts = f"the map is in 2 parts, which begin at frames 0 and {first}: "
    assert run(export.main, looped, "--to", "tum", "--into", tmp_path / "whole") == 0
    assert warn_of_run(looped) is None and "warning" not in capsys.readouterr().err
    out = broken(looped, tmp_path / "out")
    assert warn_of_run(out) == f"{parts}how they lie to each other is unknown (docs/mapping.md)"
    assert run(export.main, out, "--to", "tum", "--into", tmp_path / "apart") == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"warning: {parts}how they lie to each other is unknown, and all go into one model (docs/mapping.md)"
    chain = [record.world_from_submap for record in read_submaps(out / "submaps.txt")]
    header = (out / "loops.txt").read_text().splitlines()[0]
    scores = Scores(1.0, 50, 40, 0.5)
    proofs = [Proof(a, b, chain[a].inverse().after(chain[b]), scores, "accepted") for a in (0, 1) for b in (2, 3)]
    (out / "loops.txt").write_text("\n".join([header, *map(loop_line, proofs), ""]))
    assert run(export.main, out, "--corrected", "--to", "tum") == 0
    assert "warning" not in capsys.readouterr().err
    assert json.loads((out / "corrected" / "map.json").read_text())["parts_begin_after_joining"] == [0]
    assert warn_of_run(out).startswith(f"{parts}loops joined them in corrected/ only, elsewhere ")


def test_a_run_ends_with_what_is_said_of_parts(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    """Here the parts are made up."""
    monkeypatch.setattr("ivggt_jax.runs.parts.begins", lambda _: list(range(0, 100, 10)))
    options = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--submaps", 3, "--no-refine", "--export", "tum")
    assert run(main, "--frames", folder, *options) == 0
    assert "warning: the map is in 10 parts, which begin at frames 0, 10, 20, 30, 40, 50, 60, 70 and 2 more: how " in (
        capsys.readouterr().err
    )


def test_loops_need_submaps_and_depth(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    options = ("--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert run(main, *options, "--submaps", "off", "--loops") != 0
    assert "--loops joins submaps" in capsys.readouterr().err
    assert run(main, *options, "--heads", "camera", "--points-from", "head", "--loops") != 0
    assert "--loops needs depth" in capsys.readouterr().err
    for option in (("--submaps", 16), ("--split", 2)):
        assert run(main, *options, "--heads", "camera", "--points-from", "head", *option) != 0
        assert f"{option[0]} {option[1]} needs depth" in capsys.readouterr().err
    assert run(main, *options, "--heads", "camera", "depth", "tracks", "--track-grid", 0) != 0
    assert "--track-grid must be at least 1" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert run(main, *options, "--export", "tum", "npz") == 0
    assert run(export.main, tmp_path / "out", "--corrected", "--to", "tum") != 0
    assert "ivggt writes it with --loops" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1", "0", "-3", "many", "2.5", ""])
def test_other_values_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="--submaps"):
        SubmapOptions(submaps=value)


def test_loops_need_submaps_that_hold_a_place() -> None:
    """A place is three frames, four apart; with shorter submaps the run would end without a loop and say nothing."""
    demo = ModelConfig.demo()
    with pytest.raises(ValueError, match="--loops compares places, which take submaps of 10 frames, not 9"):
        SubmapOptions(submaps="9", loops=True).choose(demo, None)
    with pytest.raises(ValueError, match="take submaps of 13 frames with 4 frames per pass, not 12"):
        SubmapOptions(submaps="12", loops=True).choose(demo, None, frames_per_step=4)
    for frames, together in (("10", 1), ("13", 4), ("9", 16), ("11", 2)):
        assert SubmapOptions(submaps=frames, loops=True).choose(demo, None, frames_per_step=together) is not None


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
