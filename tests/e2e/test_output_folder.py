"""What a run finds in its folder: earlier runs, other people's files, another run at work."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import FRAMES, run
from filelock import FileLock

from ivggt_jax import export, infer
from ivggt_jax.inference.earlier import decisive_options
from ivggt_jax.inference.options import InferConfig
from ivggt_jax.runs.output_folder import LOCK, MARKER, begin_anew, check_inputs_outside, default_out, earlier_run
from ivggt_jax.runs.resume import STATE_FILE, begin, read_state
from ivggt_jax.sources import SourceConfig
from ivggt_jax.writers import read_run_json, write_run_json


def test_what_lies_in_a_folder_is_told_apart(tmp_path: Path) -> None:
    assert earlier_run(tmp_path / "nowhere") is None
    (tmp_path / "notes.txt").write_text("mine")
    assert earlier_run(tmp_path) is None
    (tmp_path / "points.ply").write_text("ply")
    assert earlier_run(tmp_path).description == "what is left of a run that cannot be resumed"
    write_run_json(tmp_path, {"frames": 30, "settings": {"source": {"frames": "/scenes/room"}}})
    assert earlier_run(tmp_path).finished and earlier_run(tmp_path).source == "/scenes/room"
    assert earlier_run(tmp_path).description == "a finished run of 30 frames of /scenes/room"
    begin(tmp_path, {"stride": 2})
    assert earlier_run(tmp_path).unfinished.options == {"stride": 2} and not earlier_run(tmp_path).finished


def test_only_results_are_removed(tmp_path: Path) -> None:
    begin(tmp_path, {})
    made = (
        "submaps.txt",
        "loops.txt",
        "places.bin",
        "corrected",
        "recording-000003.rrd",
        ".points.ply.part",
        "trajectory.txt",
    )
    for name in (*made, "notes.txt", "recording.txt", "recording-before.rrd", "recording-2024.rrd"):
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "images").symlink_to(tmp_path / "photos")
    begin_anew(tmp_path)
    mine = {"a.jpg", "notes.txt", "photos", "recording.txt", "recording-before.rrd", "recording-2024.rrd"}
    assert {path.name for path in tmp_path.rglob("*")} == {MARKER, *mine}
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
        ("-", "stdin"),
        ("/scenes/room/frames", "room"),
        ("/scenes/room/images/", "room"),
        ("/scenes/room/RGB", "room"),
        ("/scenes/mav0/cam0/data", "cam0"),
        ("/scenes/room/rgb/*.png", "room"),
        ("/scenes/room/color/frames/**/*.jpg", "room"),
        ("/scenes/room/frames.mp4", "frames"),
        ("/scenes/room.v2/frames", "room.v2"),
        ("/frames", "frames"),
        ("frames", "here"),
        ("photos/images/list.txt", "list"),
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


def test_a_calibration_among_results_is_refused(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    """What an adjustment wrote is a calibration too, and the next run there would remove it."""
    where = tmp_path / "out" / "refined" / "transforms.json"
    where.parent.mkdir(parents=True)
    where.write_text('{"w": 70, "h": 56, "fl_x": 60, "fl_y": 60, "cx": 35, "cy": 28, "frames": []}')
    options = ("--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--overwrite", "--camera")
    for camera in (where, f"pinhole:{where}"):
        assert run(infer.main, *options, camera) == 1
        assert "transforms.json lies where results are written" in capsys.readouterr().err
    assert where.exists()


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
    options = decisive_options(
        InferConfig(source=SourceConfig(frames=str(folder)), checkpoint=str(checkpoint), export=("tum",))
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


def test_another_scenes_run_says_so(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    """Resumed, it would seem that this scene was done; what is there stays."""
    other = folder.rename(tmp_path / "other")
    shutil.copytree(other, folder)
    out = tmp_path / "out"
    options = ("--checkpoint", checkpoint, "--out", out, "--max-frames", 1, "--export", "tum")
    assert run(infer.main, "--frames", other, *options) == 0
    before = (out / "trajectory.txt").read_bytes()
    for more in ((), ("--resume",)):
        assert run(infer.main, "--frames", folder, *options, *more) == 1
        assert f"{out} holds a finished run of 1 frame of {other}; --overwrite replaces it" in capsys.readouterr().err
    assert (out / "trajectory.txt").read_bytes() == before
    assert run(infer.main, "--frames", other, *options, "--resume") == 0
    begin(out, {"frames": str(other)})
    assert run(infer.main, "--frames", folder, *options, "--resume") == 1
    assert f"a run of {other} that was stopped before its first save, begun with" in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--resume",), ("--overwrite",)])
@pytest.mark.parametrize("content", ["[1,2]", "null", '"x"', "[" * 100_000])
def test_a_foreign_record_ends_in_a_line(
    content: str, more: tuple[str, ...], checkpoint: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    """With a run's mark beside it, as a killed run leaves it: it is replaced when that is asked for, and not before."""
    out = tmp_path / "out"
    out.mkdir()
    (out / MARKER).touch()
    (out / "run.json").write_text(content)
    options = (
        "--frames",
        folder,
        "--checkpoint",
        checkpoint,
        "--out",
        out,
        "--max-frames",
        1,
        "--export",
        "tum",
        *more,
    )
    replaced = "--overwrite" in more
    assert run(infer.main, *options) == int(not replaced)
    assert "what is left of a run that cannot be resumed" in capsys.readouterr().err
    assert ((out / "run.json").read_text() == content) != replaced


def test_an_export_replaces_no_files_of_others(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    """A folder of pictures with a model's names is a scene of somebody's; one that an export made is replaced."""
    out, into = tmp_path / "out", tmp_path / "into"
    options = ("--frames", folder, "--checkpoint", checkpoint, "--out", out, "--max-frames", 1)
    assert run(infer.main, *options) == 0
    (into / "images").mkdir(parents=True)
    (into / "images" / "img1.png").write_bytes(b"mine")
    assert run(export.main, out, "--to", "colmap", "--into", into) == 1
    assert f"{into} holds images, which may be no results" in (shown := capsys.readouterr().err) and "--into" in shown
    assert (into / "images" / "img1.png").read_bytes() == b"mine"
    for _ in range(2):
        assert run(export.main, out, "--to", "colmap", "--into", tmp_path / "new") == 0


def test_frames_are_kept_unless_they_fill_the_disk(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """In half precision where nobody asked for them; a resumed run goes on as it began, whatever the disk has by then."""
    options = ("--frames", folder, "--checkpoint", checkpoint)
    assert run(infer.main, *options, "--out", tmp_path / "kept", "--max-frames", 2) == 0
    with np.load(tmp_path / "kept" / "frames" / "000000.npz") as frame:
        assert (frame["depth"].dtype, frame["points"].dtype) == (np.float16, np.float32)
    assert "frames are not kept" not in capsys.readouterr().err
    (folder / "img4.png").rename(folder / "img4.kept")
    (folder / "img4.png").write_bytes(b"damaged")
    assert run(infer.main, *options, "--out", tmp_path / "out") == 1
    (folder / "img4.kept").rename(folder / "img4.png")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    assert run(infer.main, *options, "--out", tmp_path / "out", "--resume") == 0
    assert len(list((tmp_path / "out" / "frames").iterdir())) == FRAMES
    capsys.readouterr()
    assert run(infer.main, *options, "--out", tmp_path / "full") == 0
    assert (
        "frames are not kept for view and export: --export tum intrinsics ply npz keeps them" in capsys.readouterr().err
    )
    assert not (tmp_path / "full" / "frames").exists()
    assert run(export.main, tmp_path / "full", "--to", "glb") == 1
    assert f"--checkpoint {checkpoint} --out {tmp_path / 'full'}" in capsys.readouterr().err
    asked = ("--export", "tum", "npz", "--max-frames", 1)
    assert run(infer.main, *options, "--out", tmp_path / "asked", *asked) == 0
    with np.load(tmp_path / "asked" / "frames" / "000000.npz") as frame:
        assert frame["depth"].dtype == np.float32


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (1, "the geometry means nothing: a single frame has no second view"),
        (2, "the geometry means little: two frames leave nothing to check it against"),
        (FRAMES, "the geometry means nothing: all frames show the same, and no second view"),
    ],
)
def test_a_scene_that_says_nothing_is_said(
    kept: int, words: str, checkpoint: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    """In the last line and in run.json; the demo model's note is not for others."""
    for number, path in enumerate(sorted(folder.iterdir())):
        if number >= kept:
            path.unlink()
        elif kept == FRAMES and number:
            shutil.copyfile(folder / "img1.png", path)
    out = tmp_path / "out"
    assert run(infer.main, "--frames", folder, "--checkpoint", checkpoint, "--out", out, "--export", "tum") == 0
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1] == f"warning: {words}" and "NOTE" not in shown
    assert read_run_json(out)["doubt"] == words
