"""Jobs of real runs: one loaded model for many videos, and forty of them on Ray with workers and the job itself killed."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import av
import numpy as np
import pytest
from commands import PATIENCE, finish, run, start, write_frames

from ivggt_jax.batch import manifest
from ivggt_jax.batch.options import BatchConfig
from ivggt_jax.batch.process import outcome
from ivggt_jax.infer import main as infer
from ivggt_jax.runs.output_folder import locked
from ivggt_jax.weights import loading

OPTIONS = ("--budget", 290, "--export", "tum", "npz", "ply", "--submaps", 4)
DIFFER = ("run.json", ".ivggt_jax")


def files(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in DIFFER
    }


def test_one_loaded_model_runs_many(checkpoint: Path, frames: np.ndarray, tmp_path: Path) -> None:
    """Three folders of three frames: the files are infer's, the model is loaded once, faults are one line."""
    sources = [write_frames(tmp_path / name, frames[first : first + 3]) for first, name in enumerate("abc")]
    (sources[1] / "img2.png").write_bytes(b"nonsense")
    loaded = []
    kept = {}

    def load(*arguments):
        if arguments not in kept:
            loaded.append(arguments)
            kept[arguments] = loading.load(*arguments)
        return kept[arguments]

    config = BatchConfig(sources=(), checkpoint=str(checkpoint), export=("tum", "npz"))
    found = [outcome(config.of(str(source), tmp_path / "job" / source.name), load) for source in sources]
    assert [answer["status"] for answer in found] == ["done", "failed", "done"] and len(loaded) == 1
    assert found[0]["frames"] == 3 and "img2.png: is not an image" in found[1]["error"]
    assert outcome(config.of(str(sources[0]), tmp_path / "job" / "a"), load) == {"status": "done", "frames": 3}
    assert (
        run(infer, sources[2], "--checkpoint", checkpoint, "--export", "tum", "npz", "--out", tmp_path / "alone") == 0
    )
    assert files(tmp_path / "job" / "c") == files(tmp_path / "alone")


def test_a_folder_in_use_is_waited_for(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("ivggt_jax.batch.process.SECONDS_TO_END", 0.3)
    write_frames(tmp_path / "in", np.zeros((1, 56, 70, 3)))
    config = BatchConfig(sources=(), checkpoint=str(checkpoint)).of(str(tmp_path / "in"), tmp_path / "out")
    with locked(tmp_path / "out"):
        assert "another run is writing" in outcome(config, loading.load)["error"]


@pytest.mark.slow
def test_forty_videos_on_ray_with_kills(checkpoint: Path, frames: np.ndarray, tmp_path: Path) -> None:
    """Videos of 6 to 8 frames, 70×56, of which three are broken, on two workers of a local cluster. A worker's process is killed,
    an actor, then the whole job; started again, every good video is finished, once, with the files of `infer`."""
    pytest.importorskip("ray")
    videos, out = tmp_path / "videos", tmp_path / "job"
    videos.mkdir()
    broken = {"07", "19", "33"}
    for number in range(40):
        path = videos / f"{number:02d}.mp4"
        write_video(path, np.roll(frames, number, axis=0)[: 6 + number % 3])
        if path.stem in broken:
            path.write_bytes(path.read_bytes()[:100])
    arguments = (videos, "--checkpoint", checkpoint, *OPTIONS, "--out", out, "--ray", "local", "--workers", 2)
    arguments = (*arguments, "--save-every", 2)
    process = start("batch", *arguments)
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        wait_for(lambda: finished(out) >= 4, process)
        os.kill(int(newest_row(out).worker.partition(":")[2]), signal.SIGKILL)  # a worker's process
        wait_for(lambda: finished(out) >= 10, process)
        log = max((out / "workers").glob("*.log"), key=lambda path: path.stat().st_mtime)
        os.kill(int(log.stem.split("-")[-2]), signal.SIGKILL)  # the actor that holds one
        wait_for(lambda: finished(out) >= 18, process)
        process.kill()
        process.wait()
        process.stderr.close()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/run.json")}
    assert 15 < len(before) < 37
    again = start("batch", *arguments)
    _, errors = again.communicate(timeout=PATIENCE)
    assert again.returncode == 1, errors
    rows = {Path(row.source).stem: row for row in manifest.read(out)}
    assert {name for name, row in rows.items() if row.status != "done"} == broken
    assert all(rows[name].status == "failed" and "is not a video" in rows[name].error for name in broken)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    for name in sorted(set(rows) - broken):
        assert rows[name].frames == 6 + int(name) % 3
        alone = tmp_path / "alone" / name
        # In a process of its own, because the tests' process compiles otherwise: the last digits of points would differ.
        finish("infer", "--frames", videos / f"{name}.mp4", "--checkpoint", checkpoint, *OPTIONS, "--out", alone)
        assert files(out / rows[name].path) == files(alone), name


def write_video(path: Path, frames: np.ndarray) -> None:
    """Frames [S,H,W,3] in [0,1], ten a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        _, stream.height, stream.width, _ = frames.shape
        stream.pix_fmt = "yuv420p"
        for frame in np.round(255 * frames).astype(np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def finished(out: Path) -> int:
    return len(list(out.glob("*/run.json")))


def newest_row(out: Path) -> manifest.Row:
    """A row of the manifest that names a worker, waited for."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        rows = [row for row in manifest.read(out) if row.worker and row.status == "done"]
        if rows:
            return rows[-1]
        time.sleep(0.1)
    raise AssertionError("no row names a worker")


def wait_for(condition, process: subprocess.Popen) -> None:
    """As `wait_until`, for a job that may take long to begin."""
    deadline = time.monotonic() + 2 * PATIENCE
    while not condition():
        assert process.poll() is None, f"it ended with {process.returncode}: {process.communicate()[1]}"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)
