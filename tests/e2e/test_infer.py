"""`python -m ivggt_jax.infer` as a user runs it: outputs, and one clear line for whatever goes wrong."""

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import FRAMES, PATIENCE, read_npz, run, start, wait_until
from PIL import Image

from ivggt_jax import CacheConfig, Model, StreamState, cameras_from_pose, export, infer, init_stream, step, stream
from ivggt_jax.infer import main
from ivggt_jax.runs.output_folder import mark
from ivggt_jax.runs.resume import read_state
from ivggt_jax.view import View
from ivggt_jax.writers import Result
from ivggt_jax.writers.tum import TumWriter


def test_outputs_equal_the_library(tiny: Model, checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = run(main, "--frames", folder, "--checkpoint", checkpoint, "--out", out, "--budget", 290, "--export", "tum",
               "intrinsics", "ply", "npz")  # fmt: skip
    assert code == 0
    state = init_stream(tiny, CacheConfig(total_budget=290, max_frames=FRAMES), height=56, width=70)
    images = [np.asarray(Image.open(folder / f"img{i + 1}.png")) for i in range(FRAMES)]
    for i, image in enumerate(images):
        state, predictions = step(tiny, state, image[None])
        saved = read_npz(out / "frames" / f"{i:06d}.npz")
        cam_from_world, intrinsics = cameras_from_pose(predictions.pose_encoding[0], 56, 70)
        np.testing.assert_allclose(saved["cam_from_world"], cam_from_world, atol=1e-5)
        np.testing.assert_allclose(saved["depth"], predictions.depth[0], atol=1e-5)
    trajectory = np.loadtxt(out / "trajectory.txt")
    assert trajectory.shape == (FRAMES, 8)
    np.testing.assert_array_equal(trajectory[:, 0], range(FRAMES))
    lines = np.loadtxt(out / "intrinsics.txt")
    np.testing.assert_allclose(lines[-1, 1:3], [intrinsics[0, 0], intrinsics[1, 1]], rtol=1e-5)
    np.testing.assert_array_equal(lines[:, 5:], [[70, 56]] * FRAMES)
    assert (out / "points.ply").read_bytes().startswith(b"ply\nformat binary_little_endian")
    record = json.loads((out / "run.json").read_text())
    assert record["frames"] == FRAMES
    assert record["tokens_kept"]["total"] == int(state.lengths.sum())
    assert record["settings"]["memory"]["budget"] == 290


def test_a_named_pipe_of_paths_is_no_camera(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    """All frames count, the first too, and their names tell no time at which they came."""
    pipe, names = tmp_path / "pipe", [f"{1305031102.25 + i / 16}.png" for i in range(FRAMES)]
    for i, name in enumerate(names):
        (folder / f"img{i + 1}.png").rename(folder / name)
    os.mkfifo(pipe)
    keeper = os.open(pipe, os.O_RDWR)
    os.write(keeper, "".join(f"{folder}/{name}\n" for name in names).encode())
    out = tmp_path / "out"
    code = run(main, pipe, "--checkpoint", checkpoint, "--out", out, "--heads", "camera", "--export", "tum", "--max-frames",
               FRAMES)  # fmt: skip
    os.close(keeper)
    assert code == 0
    times = np.loadtxt(out / "trajectory.txt")[:, 0]
    np.testing.assert_allclose(times, 1305031102.25 + np.arange(FRAMES) / 16, rtol=0, atol=1e-6)
    assert json.loads((out / "run.json").read_text())["milliseconds_from_capture_to_pose"] == {}


def test_options_change_what_is_run(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = run(main, "--frames", folder, "--checkpoint", checkpoint, "--out", out, "--stride", 2, "--size", 42, "--mode", "pad",
               "--points-from", "head", "--heads", "camera", "tracks", "--track-grid", 2, "--camera-cache",
               "per_iteration", "--policy", "segment", "--anchor-frames", 2, "--export", "npz", "ply")  # fmt: skip
    assert code == 0
    cache = json.loads((out / "run.json").read_text())["cache"]
    assert (cache["policy"], cache["anchor_frames"], cache["camera_cache"]) == ("segment", 2, "per_iteration")
    assert sorted(path.name for path in (out / "frames").iterdir()) == ["000000.npz", "000002.npz", "000004.npz"]
    saved = read_npz(out / "frames" / "000000.npz")
    assert saved["points"].shape == (42, 42, 3) and "depth" not in saved
    np.testing.assert_allclose(
        saved["tracks"], [[13.67, 13.67], [27.33, 13.67], [13.67, 27.33], [27.33, 27.33]], atol=0.01
    )


@pytest.mark.parametrize("export", [("tum",), ("tum", "npz"), ("tracks",)])
def test_tracks_that_nothing_writes_are_named(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys, export: tuple[str, ...]
) -> None:
    code = run(main, "--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--max-frames", 1, "--heads",
               "camera", "tracks", "--track-grid", 2, "--export", *export)  # fmt: skip
    assert code == 0
    assert ("tracks are predicted, but nothing writes them" in capsys.readouterr().err) == (export == ("tum",))


def test_a_run_holds_no_other_heads(checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch) -> None:
    held = []

    def begin(model: Model, *arguments: Any, **options: Any) -> StreamState:
        held.append(model.config.predicts)
        return init_stream(model, *arguments, **options)

    monkeypatch.setattr(infer, "init_stream", begin)
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--max-frames", 1)
    assert run(main, *arguments) == 0
    assert held == [("camera", "depth")]


@pytest.mark.slow
def test_frames_that_share_a_pass(tiny: Model, checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    """Two passes of two frames and the fifth frame alone, all written; within a limit that an int8 cache needs not."""
    out = tmp_path / "out"
    code = run(main, "--frames", folder, "--checkpoint", checkpoint, "--out", out, "--budget", 290, "--export", "npz",
               "--frames-per-step", 2, "--max-memory", "1GB")  # fmt: skip
    assert code == 0
    images = [np.asarray(Image.open(folder / f"img{i + 1}.png")) for i in range(FRAMES)]
    cache = CacheConfig(total_budget=290, max_frames=FRAMES, frames_per_step=2)
    for i, predictions in enumerate(stream(tiny, images[:4], cache)):
        saved = read_npz(out / "frames" / f"{i:06d}.npz")
        np.testing.assert_allclose(saved["depth"], predictions.depth, atol=1e-5)
    assert len(list((out / "frames").iterdir())) == FRAMES
    record = json.loads((out / "run.json").read_text())
    assert record["frames"] == FRAMES and record["cache"]["dtype"] is None


def test_an_earlier_run_is_kept_unless_told(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--max-frames", 1)
    assert run(main, *arguments) == 0
    before = (tmp_path / "out" / "run.json").stat().st_mtime_ns
    assert run(main, *arguments) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "run.json").stat().st_mtime_ns == before
    assert run(main, *arguments, "--overwrite") == 0


def test_another_size_is_fitted_to_the_first(checkpoint: Path, folder: Path, tmp_path: Path, caplog) -> None:
    for i in (2, 4):
        Image.new("RGB", (56, 70), "red").save(folder / f"img{i}.png")
    assert run(main, "--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--export", "npz") == 0
    saved = read_npz(tmp_path / "out" / "frames" / "000001.npz")
    assert saved["image"].shape == (56, 70, 3)
    assert (saved["image"][:, [0, -1]] == 255).all(), "white on both sides"
    assert sum("img2" in record.message for record in caplog.records) == 1
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--frames", "nowhere"), "nowhere"),
        (("--checkpoint", "nowhere"), "nowhere"),
        (("--budget", "99"), "25 tokens × 4 layers = 100"),
        (("--size", "50"), "multiple of 14"),
        (("--export", "obj"), "invalid choice 'obj'"),
        (("--strde", "2"), "--stride"),
        (("--confidence", "200"), "percentile from 0 to below 100"),
        (
            ("--heads", "camera"),
            "--export ply needs points, which --heads leaves out: add depth to --heads, or name what",
        ),
        (("--save-every", "-1"), "0 or more frames"),
        (("--max-memory", "lots"), "like 8GB"),
        (("--max-memory", "10MB"), "too little: weights take"),
    ],
)
def test_bad_input_is_one_clear_line(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys, arguments: tuple[str, str], words: str
) -> None:
    options = {"--frames": str(folder), "--checkpoint": str(checkpoint), "--out": str(tmp_path / "out")}
    options |= dict([arguments])
    assert run(main, *(word for pair in options.items() for word in pair)) != 0
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err


def test_no_images_and_not_a_checkpoint(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(main, "--frames", empty, "--checkpoint", checkpoint, "--out", tmp_path / "out") == 1
    assert str(empty) in capsys.readouterr().err
    assert run(main, "--frames", folder, "--checkpoint", folder, "--out", tmp_path / "out") == 1
    assert str(folder) in capsys.readouterr().err


def test_a_record_names_the_source_in_full(checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """A resumed run may name it otherwise, and an export from elsewhere takes the same pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (folder / "img4.png").write_bytes(b"damaged")
    arguments = ("--checkpoint", checkpoint, "--out", tmp_path / "out", "--export", "nerfstudio")
    assert run(main, "--frames", folder.name, *arguments) == 1
    assert run(main, "--frames", f"~/{folder.name}", *arguments, "--resume", "--on-error", "skip") == 0
    assert "with 3 frames saved: resumed from there" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["source"]["frames"] == str(folder)
    monkeypatch.chdir("/")
    assert run(export.main, tmp_path / "out", "--to", "colmap", "--into", tmp_path / "elsewhere") == 0
    for name in ("img1.png", "img5.png"):
        assert (tmp_path / "elsewhere" / "images" / name).samefile(folder / name)
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == [
        f"img{i}.png" for i in (1, 2, 3, 5)
    ]


def test_a_truncated_image_ends_the_run_and_leaves_what_was_done(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    bad = folder / "img4.png"
    bad.write_bytes(bad.read_bytes()[:200])
    out = tmp_path / "out"
    assert run(main, "--frames", folder, "--checkpoint", checkpoint, "--out", out) == 1
    assert "img4.png" in capsys.readouterr().err
    assert len(np.loadtxt(out / "trajectory.txt")) == 3
    assert json.loads((out / "run.json").read_text())["frames"] == 3
    assert (out / "points.ply").exists()
    assert (
        run(main, "--frames", folder, "--checkpoint", checkpoint, "--out", out, "--overwrite", "--on-error", "skip")
        == 0
    )
    assert len(np.loadtxt(out / "trajectory.txt")) == 4


@pytest.mark.parametrize("full", [False, True])
def test_what_is_said_of_the_saved_state_is_true(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch, capsys, full: bool
) -> None:
    """Ctrl-C at the third frame."""

    def write(self: TumWriter, result: Result) -> None:
        if result.frame.index == 2:
            signal.raise_signal(signal.SIGINT)

    def save(*arguments: Any) -> None:
        if full:
            raise OSError("the disk is full")

    monkeypatch.setattr(TumWriter, "write", write)
    monkeypatch.setattr(infer, "save_state", save)
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--export", "tum")
    assert run(main, *arguments) == 130
    assert ("from the last state that was saved" in capsys.readouterr().err) == full


def test_a_run_without_a_point_is_over(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    """Resumed, it would end in the same way again and again, so it is only said again that it failed."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in folder.iterdir():
        Image.new("L", (70, 56)).save(masks / path.name)
    out = tmp_path / "out"
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", out, "--export", "ply", "--masks", masks)
    assert run(main, *arguments) == 1
    said = capsys.readouterr().err
    assert "error: " in said and read_state(out) is None
    assert run(main, *arguments, "--resume") == 1
    assert f"which failed at its end: {said.rpartition('error: ')[2].strip()}" in capsys.readouterr().err


def test_a_finished_run_is_not_resumed_with_other_options(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    """Each would have given other files than lie there; what does not decide about them may differ."""
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--resume")
    assert run(main, *arguments) == 0
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    for changed in (("--export", "glb"), ("--stride", 2), ("--submaps", 3), ("--budget", 290), ("--confidence", 30)):
        capsys.readouterr()
        assert run(main, *arguments, *changed) == 1, changed
        said = capsys.readouterr().err
        assert f"made with {changed[0]} " in said and "ivggt export" in said
    assert run(main, *arguments, "--save-every", 7) == 0
    assert "nothing to resume" in capsys.readouterr().err
    assert done == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_the_page_shows_the_run(checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """It opens with the run, is there when the run is over, and is gone after Ctrl-C (here: at once). While it stays, the folder is
    free for exports."""
    answers, out = [], tmp_path / "out"

    def look(page: View) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(page._nodes) < FRAMES and time.monotonic() < deadline:
            time.sleep(0.05)
        with urllib.request.urlopen(page.address) as response:
            answers.append((response.status, len(page._nodes), page.address))
        assert run(export.main, out, "--to", "ply") == 0

    monkeypatch.setattr(View, "wait", look)
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", out, "--export", "tum", "--view", "--port", 0)
    assert run(main, *arguments) == 0
    ((status, drawn, address),) = answers
    assert (status, drawn) == (200, FRAMES)
    assert f"look at {address}" in capsys.readouterr().err
    assert len(list((out / "frames").glob("*.npz"))) == FRAMES
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address)


@pytest.mark.parametrize(("more", "message"), [(("--export", "rrd"), "needs the Rerun SDK"),
                                               (("--view", "--port", 70000), "--port is a number from 0 to 65535")])  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_removed(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch, capsys, more: tuple[object, ...], message: str
) -> None:
    (tmp_path / "out").mkdir()
    mark(tmp_path / "out")
    (tmp_path / "out" / "points.ply").touch()
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert (
        run(main, "--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--overwrite", *more) == 1
    )
    assert message in capsys.readouterr().err
    assert (tmp_path / "out" / "points.ply").is_file()


def test_a_full_disk_is_named(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    """Files of the process may not pass 20 kB, and a frame's .npz does; neither do compiled programs go into a cache."""
    process = start(
        "infer",
        *("--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--export", "npz"),
        limit="ulimit -f 20; export JAX_ENABLE_COMPILATION_CACHE=false",
    )
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert ".npz: File too large" in error and "Traceback" not in error
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    written = list((tmp_path / "out" / "frames").iterdir())
    assert record["frames"] == len(written) < FRAMES, "nothing is half-written, and what was written is counted"


def test_folders_of_similar_length_share_what_was_compiled(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    """Of 5 and of 6 images, each in a process of its own: the second adds nothing to the compiled programs."""
    entries: list[set[str]] = []
    for count in (FRAMES, FRAMES + 1):
        (folder / f"img{count}.png").write_bytes((folder / "img1.png").read_bytes())
        process = start(
            "infer",
            *("--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / f"out{count}", "--export", "tum"),
            limit=f"export JAX_COMPILATION_CACHE_DIR={tmp_path / 'compiled'}",
        )
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, error
        entries.append({path.name for path in (tmp_path / "compiled").iterdir()})
    assert entries[0] == entries[1] and any(name.startswith("jit_") for name in entries[0])


def test_interrupt_finishes_the_frame(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    """Enough frames that the signal comes in the middle, before any that has a pose to be aligned to."""
    image = (folder / "img1.png").read_bytes()
    for i in range(6, 3000):
        (folder / f"img{i}.png").write_bytes(image)
    out = tmp_path / "out"
    known = tmp_path / "known.txt"
    np.savetxt(known, [(number, number, 0, 0, 0, 0, 0, 1) for number in range(2900, 2999)])
    process = start("infer", "--frames", folder, "--checkpoint", checkpoint, "--out", out, "--align-to", known)
    trajectory = out / "trajectory.txt"
    wait_until(lambda: trajectory.exists() and len(trajectory.read_text().splitlines()) > 3, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, error
    assert "Traceback" not in error and "--resume goes on" in error
    assert "warning: what is made at the end is not made now: " in error and "three are needed" in error
    record = json.loads((out / "run.json").read_text())
    assert record["interrupted"] and 3 <= record["frames"] < 2999
    assert len(np.loadtxt(out / "trajectory.txt")) == record["frames"]
    assert read_state(out).frames == record["frames"]
