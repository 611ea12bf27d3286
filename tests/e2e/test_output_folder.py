"""What a run finds in its folder: earlier runs, other people's files, another run at work."""

from pathlib import Path

import pytest
from commands import FRAMES, run
from filelock import FileLock

from ivggt_jax import infer
from ivggt_jax.runs.output_folder import LOCK, MARKER, begin_anew, check_inputs_outside, default_out, earlier_run
from ivggt_jax.runs.resume import STATE_FILE, begin, read_state
from ivggt_jax.writers import write_run_json


def test_what_lies_in_a_folder_is_told_apart(tmp_path: Path) -> None:
    assert earlier_run(tmp_path / "nowhere") is None
    (tmp_path / "notes.txt").write_text("mine")
    assert earlier_run(tmp_path) is None
    (tmp_path / "points.ply").write_text("ply")
    assert earlier_run(tmp_path).description == "what is left of a run that cannot be resumed"
    write_run_json(tmp_path, {"frames": 30})
    assert earlier_run(tmp_path).finished and "finished run of 30 frames" in earlier_run(tmp_path).description
    begin(tmp_path, {"stride": 2})
    assert earlier_run(tmp_path).unfinished.options == {"stride": 2} and not earlier_run(tmp_path).finished


def test_only_results_are_removed(tmp_path: Path) -> None:
    begin(tmp_path, {})
    for name in ("recording-000003.rrd", ".points.ply.part", "trajectory.txt", "notes.txt", "recording.txt"):
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "images").symlink_to(tmp_path / "photos")
    begin_anew(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {MARKER, "a.jpg", "notes.txt", "photos", "recording.txt"}
    (tmp_path / "trajectory.txt").touch()
    begin_anew(tmp_path)
    assert not (tmp_path / "trajectory.txt").exists(), "the mark of the run before is enough"


@pytest.mark.parametrize("more", [(), ("--overwrite",), ("--resume",)])
def test_other_peoples_files_with_names_of_results_stay(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys, more: tuple[str, ...]
) -> None:
    """A scene of COLMAP's or nerfstudio's has the same names; so may a run.json of another program."""
    scene = tmp_path / "scene"
    (scene / "images").mkdir(parents=True)
    for name in ("images/a.jpg", "transforms.json"):
        (scene / name).touch()
    (scene / "run.json").write_text('{"frames": 3}')
    before = set(scene.rglob("*"))
    assert run(infer.main, "--frames", folder, "--checkpoint", checkpoint, "--out", scene, *more) == 1
    assert "images, transforms.json, run.json" in (shown := capsys.readouterr().err) and "choose another --out" in shown
    assert set(scene.rglob("*")) == before


@pytest.mark.parametrize(
    ("frames", "name"),
    [
        ("walk.mp4", "walk"),
        ("photos/*.jpg", "photos"),
        ("photos/**/*.jpg", "photos"),
        (".", "here"),
        ("..", "above"),
        ("cam:0", "cam:0"),
        ("rtsp://user:p@ssword@host:554/live?password=secret", "host-554-live"),
    ],
)
def test_the_folder_is_named_after_the_source(tmp_path: Path, monkeypatch, frames: str, name: str) -> None:
    place = tmp_path / "above" / "here"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    assert default_out(frames) == Path("ivggt_out") / name


@pytest.mark.parametrize("path", ["images", "images/*.jpg", "frames/a.png", "points.ply", "trajectory.txt"])
def test_frames_that_lie_where_results_go_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="choose another --out"):
        check_inputs_outside(tmp_path, f"{tmp_path}/{path}")
    for frames in (tmp_path, f"{tmp_path}/photos/*.jpg", f"{tmp_path}2/images", "cam:0", "-"):
        check_inputs_outside(tmp_path, str(frames))


@pytest.mark.parametrize("frames", ["list.txt", "*/*.jpg"])
def test_frames_that_are_named_one_by_one_are_refused_too(tmp_path: Path, frames: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    (tmp_path / "list.txt").write_text("elsewhere/b.jpg\nimages/a.jpg\n")
    with pytest.raises(ValueError, match=r"images/a.jpg lies where results are written"):
        check_inputs_outside(tmp_path, f"{tmp_path}/{frames}")


def test_other_inputs_are_not_taken_for_lists_of_frames(tmp_path: Path) -> None:
    (tmp_path / "walk.txt").write_bytes("# Straße\n0 0 0 0 0 0 0 1\n".encode("latin-1"))
    check_inputs_outside(tmp_path / "out", "cam:0", [None, tmp_path / "walk.txt"])
    with pytest.raises(ValueError, match=r"trajectory.txt lies where results are written"):
        check_inputs_outside(tmp_path, "cam:0", [tmp_path / "trajectory.txt"])


def test_two_runs_do_not_write_to_one_folder(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / LOCK):
        assert run(infer.main, "--frames", folder, "--checkpoint", checkpoint, "--out", out, "--overwrite") == 1
    assert f"another run is writing to {out}" in capsys.readouterr().err


def test_a_mistake_leaves_nothing_and_removes_nothing(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(infer.main, "--frames", folder, "--checkpoint", tmp_path / "nowhere", "--out", out) == 1
    assert not out.exists()
    write_run_json(out, {"frames": 30})
    assert run(infer.main, "--frames", folder, "--checkpoint", tmp_path, "--out", out, "--overwrite") == 1
    assert earlier_run(out).finished


def test_a_run_killed_before_its_first_save_begins_again(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", out, "--export", "tum")
    assert run(infer.main, *arguments) == 0
    options = infer._decisive_options(
        infer.InferConfig(source=infer.SourceConfig(frames=str(folder)), checkpoint=str(checkpoint), export=("tum",))
    )
    begin(out, options)
    with (out / "trajectory.txt").open("a") as file:
        file.write("half a li")
    assert run(infer.main, *arguments) == 1
    assert "--resume goes on with it, --overwrite replaces it" in capsys.readouterr().err
    assert run(infer.main, *arguments, "--resume") == 0
    assert "stopped before its first save" in capsys.readouterr().err
    assert len((out / "trajectory.txt").read_text().splitlines()) == FRAMES + 1


def test_a_damaged_state_is_named_and_overwritten(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    begin(out, {})
    path = out / STATE_FILE
    path.write_bytes(path.read_bytes()[:-3])
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", out, "--export", "tum")
    assert run(infer.main, *arguments, "--resume") == 1
    assert f"{path}, the state of a stopped run, is damaged: begin again with --overwrite" in capsys.readouterr().err
    assert run(infer.main, *arguments, "--overwrite") == 0
    assert "a damaged run: replaced" in capsys.readouterr().err
    assert read_state(out) is None
