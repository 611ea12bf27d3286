"""Runs that are stopped or killed, resumed, and end with the files of a run that was not."""

import json
import random
import shlex
import signal
import subprocess
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from commands import PATIENCE, finish, run, start, wait_until, write_frames

from ivggt_jax import infer
from ivggt_jax.evaluate.walks import Walk
from ivggt_jax.infer import main
from ivggt_jax.options.export import FORMATS
from ivggt_jax.runs.resume import STATE_FILE
from ivggt_jax.writers import Result
from ivggt_jax.writers.tum import TumWriter

FRAMES = 12
EXTRAS = {"rrd": ("rerun",), "mcap": ("mcap", "foxglove")}
EXPORTS = [name for name in FORMATS if all(map(find_spec, EXTRAS.get(name, ())))]
DIFFER = ("settings", "milliseconds_per_frame", "peak_memory_bytes")
"""What run.json says of the process and not of its results."""


@pytest.fixture(scope="module")
def arguments(checkpoint: Path, frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """All exports (the Rerun SDK's where it is installed) of twelve frames; the budget of 290 tokens evicts from the third on,
    and the sixth begins a second submap."""
    folder = write_frames(tmp_path_factory.mktemp("input") / "frames", frames[:FRAMES])
    return ("--frames", folder, "--checkpoint", checkpoint, "--budget", 290, "--heads", "camera", "depth", "tracks",
            "--submaps", 6, "--confidence", 20, "--moving", "separate", "--export", *EXPORTS)  # fmt: skip


@pytest.fixture(scope="module")
def whole(arguments: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    finish("infer", *arguments, "--out", out)
    return out


def pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def recorded_frames(out: Path) -> set[int]:
    """Frames in all parts of a Rerun recording."""
    from rerun.chunk import RrdReader

    found: set[int] = set()
    with warnings.catch_warnings(action="ignore"):  # that a part which was killed has no footer
        for path in out.glob("recording*.rrd"):
            for chunk in RrdReader(path).stream().to_chunks():
                if chunk.entity_path == "/world/camera":
                    found |= set(chunk.to_record_batch().column("frame").to_pylist())
    return found


def assert_same_files(found: Path, expected: Path) -> None:
    """Byte for byte; the video and the recording by what they show, run.json without times and memory."""
    names = [
        {path.relative_to(out) for path in out.rglob("*") if path.is_file() and path.suffix != ".rrd"}
        for out in (found, expected)
    ]
    assert names[0] == names[1]
    assert len(names[0]) > 5 * FRAMES
    for name in sorted(names[0]):
        ours, theirs = found / name, expected / name
        if name.name == "video.mp4":
            # Key frames lie elsewhere, so each picture is coded anew: closer to its own than to any other.
            shown, wanted = pictures(ours).astype(int), pictures(theirs)
            difference = np.abs(shown[:, None] - wanted).mean(axis=(2, 3, 4))
            np.testing.assert_array_equal(difference.argmin(axis=1), range(FRAMES))
            assert difference.diagonal().max() < 8
        elif name.name == "run.json":
            records = [json.loads(path.read_text()) for path in (ours, theirs)]
            same = [{key: value for key, value in record.items() if key not in DIFFER} for record in records]
            assert same[0] == same[1]
        else:
            assert ours.read_bytes() == theirs.read_bytes(), name
    if "rrd" in EXPORTS:
        assert recorded_frames(found) == recorded_frames(expected) == set(range(FRAMES))


def test_two_kills_and_the_same_files(arguments: tuple[object, ...], whole: Path, tmp_path: Path, capsys) -> None:
    """One between frames 5 and 12, six of them saved or three; one while the exports are built."""
    out = tmp_path / "out"
    arguments = (*arguments, "--out", out, "--save-every", 3)
    process = start("infer", *arguments)
    wait_until(lambda: len(lines(out / "kitti.txt")) >= 5, process)
    kill(process)
    assert run(main, *arguments) == 1
    assert "that was stopped, with" in capsys.readouterr().err
    process = start("infer", *arguments, "--resume")
    wait_until(lambda: (out / "sparse").exists(), process)
    kill(process)
    assert not (out / "run.json").exists() and (out / STATE_FILE).exists()
    assert f"{FRAMES} frames saved: resumed from there" in finish("infer", *arguments, "--resume")
    assert_same_files(out, whole)
    assert run(main, *arguments, "--resume") == 0
    assert f"a finished run of {FRAMES} frames of {arguments[1]}: nothing to resume" in capsys.readouterr().err


@pytest.mark.slow
def test_fifty_kills_at_random_times(arguments: tuple[object, ...], whole: Path, tmp_path: Path) -> None:
    """Runs are killed five times each and then left to end: their files are the whole run's. Seed 0."""
    chance = random.Random(0)
    began = time.monotonic()
    process = start("infer", *arguments, "--out", tmp_path / "timed")
    process.communicate(timeout=PATIENCE)
    seconds = time.monotonic() - began
    for number in range(10):
        out = tmp_path / str(number) / "out"  # scene.html has the name of the last
        for _ in range(5):
            process = start("infer", *arguments, "--out", out, "--save-every", chance.choice((0, 1, 2, 5)), "--resume")
            if chance.random() < 0.5:
                files = chance.randint(0, count_files(whole))
                wait_until(lambda: process.poll() is not None or count_files(out) >= files, process)  # noqa: B023
            else:
                time.sleep(chance.uniform(0.3, 1.0) * seconds)
            kill(process)
        finish("infer", *arguments, "--out", out, "--resume")
        assert_same_files(out, whole)


def test_stopped_by_the_system_and_resumed_past_a_bad_frame(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys
) -> None:
    """A bad frame saves the state; `--on-error` may change, other options may not."""
    bad = folder / "img4.png"
    content = bad.read_bytes()
    bad.write_bytes(content[:200])
    out = tmp_path / "out"
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", out, "--export", "tum", "ply")
    assert run(main, *arguments) == 1
    assert "--on-error skip" in capsys.readouterr().err
    assert run(main, *arguments, "--resume", "--confidence", 10) == 1
    words, _, again = capsys.readouterr().err.partition("this goes on: ivggt ")
    assert "begun with --confidence 50.0, now 10.0" in words
    assert run(main, *shlex.split(again.splitlines()[0]), "--on-error", "skip") == 0
    assert "with 3 frames saved: resumed from there" in capsys.readouterr().err
    np.testing.assert_array_equal(np.loadtxt(out / "trajectory.txt")[:, 0], (0, 1, 2, 4))
    record = json.loads((out / "run.json").read_text())
    assert record["skipped"]["count"] == 1 and "img4.png" in record["skipped"]["names"][0]
    assert not (out / STATE_FILE).exists()


def test_a_resumed_run_counts_every_unreadable_frame_once(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    """More than are named, met again before the first frame that can be read; and one that was read ahead."""
    for i in range(25):
        (folder / f"a{i}.png").write_bytes(b"damaged")
    (folder / "img4.png").write_bytes(b"damaged")
    out = tmp_path / "out"
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", out, "--export", "tum", "--on-error", "skip")

    def write_and_interrupt(self: TumWriter, result: Result) -> None:
        write(self, result)
        if result.frame.name == "img3.png":
            signal.raise_signal(signal.SIGINT)

    write = TumWriter.write
    monkeypatch.setattr(TumWriter, "write", write_and_interrupt)
    assert run(main, *arguments, "--save-every", 1) == 130
    monkeypatch.undo()
    assert run(main, *arguments, "--resume") == 0
    record = json.loads((out / "run.json").read_text())
    assert record["frames"] == 4 and record["skipped"]["count"] == 26 and len(record["skipped"]["names"]) == 20


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs a list of mapped files")
def test_the_state_that_was_read_is_let_go(checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch) -> None:
    """As long as it is mapped it keeps its space on the disk, beside the next one's."""
    (folder / "img4.png").write_bytes(b"damaged")
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--export", "tum")
    assert run(main, *arguments) == 1
    mapped = []
    restore, feed = infer.restore_stream, infer.Run.feed

    def look_and(function: Callable) -> Callable:
        def looking(*arguments: Any) -> Any:
            mapped.append(STATE_FILE in Path("/proc/self/maps").read_text())
            return function(*arguments)

        return looking

    monkeypatch.setattr(infer, "restore_stream", look_and(restore))
    monkeypatch.setattr(infer.Run, "feed", look_and(feed))
    assert run(main, *arguments, "--resume", "--on-error", "skip") == 0
    assert mapped == [True, False]


@pytest.mark.slow
def test_twenty_kills_and_the_same_corrected_map(tmp_path: Path) -> None:
    """The demo model walks through a room and back: 80 frames, eight submaps, loops between them.

    Killed after every fourth frame, up to six of them not saved, and twice while the map is corrected. Seed 0.
    """
    walk = Walk("return", 0, 84, 112)
    there = np.concatenate([walk.part(first, 10).images for first in range(0, 40, 10)])
    folder = write_frames(tmp_path / "frames", np.concatenate((there, there[::-1])) / 255)
    arguments = ("--frames", folder, "--submaps", 11, "--loops", "--export", "tum", "ply", "colmap")
    assert "corrected by" in finish("infer", *arguments, "--out", tmp_path / "whole")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert json.loads((whole / "corrected" / "map.json").read_text())["loops"]["kept"] > 0
    chance = random.Random(0)
    reached = [lambda n=n: len(lines(out / "trajectory.txt")) > n for n in range(4, 76, 4)]
    for condition in (*reached, *[(out / "corrected").exists] * 2):
        process = start("infer", *arguments, "--out", out, "--save-every", chance.choice((1, 3, 7)), "--resume")
        wait_until(condition, process)
        kill(process)
        assert not (out / "run.json").exists()
    finish("infer", *arguments, "--out", out, "--resume")
    for path in sorted(path for path in whole.rglob("*.*") if path.name != "run.json"):
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes(), path


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def count_files(out: Path) -> int:
    return sum(1 for _ in out.rglob("*.*")) if out.exists() else 0


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, -signal.SIGKILL)  # 0: it was over just before
