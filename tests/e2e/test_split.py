"""`--split`: one source on several processes gives what one gives, whatever the map says of where submaps begin."""

import errno
import io
import json
import os
import signal
import time
from itertools import count
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
from commands import FRAMES, PATIENCE, read_npz, run, start, write_frames
from exact import as_users_do, exact
from PIL import Image
from test_fleet import write_video

from ivggt_jax.batch.options import BatchConfig
from ivggt_jax.evaluate.walks import Walk
from ivggt_jax.infer import main
from ivggt_jax.inference import parallel
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.mapping.state import MapState
from ivggt_jax.mapping.submaps import is_due
from ivggt_jax.runs import run as run_of_one
from ivggt_jax.runs.room import Room
from ivggt_jax.split import chain, pool, process
from ivggt_jax.split.messages import Answer, Seen
from ivggt_jax.streaming import mapped_pass

CAMERA = "80,82,34.5,27.5,-0.1,0.02,0.001,0"
OPTIONS = ("--budget", 290, "--submaps", 5, "--export", "tum", "npz")


@pytest.fixture(autouse=True)
def as_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes compute with the precision of these tests, and share their compiled programs; all round as for users."""
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    monkeypatch.setenv("XLA_FLAGS", as_users_do())
    for module, name in ((run_of_one, "step"), (process, "see_frame"), (chain, "place_frame")):
        monkeypatch.setattr(module, name, exact(getattr(module, name), donate_argnames="state"))


def both(source: Path, checkpoint: Path, out: Path, *options: object) -> tuple[Path, Path]:
    for name, words in (("one", ()), ("two", ("--split", 2))):
        assert run(main, source, "--checkpoint", checkpoint, "--out", out / name, *OPTIONS, *options, *words) == 0
    return out / "one", out / "two"


def table(path: Path) -> np.ndarray:
    return np.array([line.split() for line in path.read_text().splitlines() if not line.startswith("#")], np.float64)


def assert_same(one: Path, two: Path) -> None:
    for name in ("trajectory.txt", "submaps.txt"):
        np.testing.assert_allclose(table(two / name), table(one / name), atol=1e-5)
    records = [json.loads((out / "run.json").read_text()) for out in (one, two)]
    for name in (
        "frames",
        "submaps",
        "cache",
        "camera",
        "metric",
        "tokens_kept",
        "budgets_clipped",
        "tokens_dropped",
        "skipped",
    ):
        assert records[0][name] == records[1][name], name
    files = [sorted(path.name for path in (out / "frames").iterdir()) for out in (one, two)]
    assert files[0] == files[1]
    for name in files[0]:
        found, wanted = read_npz(two / "frames" / name), read_npz(one / "frames" / name)
        assert found.keys() == wanted.keys()
        for key, array in wanted.items():
            if array.dtype.kind in "fc":
                np.testing.assert_allclose(found[key], array, rtol=1e-4, atol=1e-5, err_msg=f"{name}: {key}")
            else:
                np.testing.assert_array_equal(found[key], array)


@pytest.mark.slow
def test_a_video_in_two_processes_is_the_video_in_one(checkpoint: Path, frames: np.ndarray, tmp_path: Path) -> None:
    """24 frames of 70×56 of a calibrated camera, a submap every five."""
    write_video(tmp_path / "walk.mp4", np.resize(frames, (24, *frames.shape[1:])))
    one, two = both(tmp_path / "walk.mp4", checkpoint, tmp_path, "--camera", CAMERA)
    assert_same(one, two)


class Here:
    """Stands for the process that a test runs in a thread of its own, which its channel's end ends."""

    started: ClassVar[list["Here"]] = []

    def __init__(self, words: list[str], **_: object) -> None:
        self.channel = os.dup(int(words[-1]))
        Here.started.append(self)
        Thread(target=process.serve, args=(process.ProcessConfig(self.channel),), daemon=True).start()

    def wait(self, _: float | None = None) -> int:
        return -9

    def kill(self) -> None:
        """Its channel is closed already."""


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> list[Here]:
    """Processes that share what is compiled here, and start at once."""
    monkeypatch.setattr(pool.subprocess, "Popen", Here)
    monkeypatch.setattr(Here, "started", [])
    return Here.started


def test_the_map_has_the_last_word(
    checkpoint: Path, frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_threads: list[Here]
) -> None:
    """24 frames: one submap begins later because of a blurred frame, which processes see for themselves; one earlier and one
    later than they think, as after a cut in the video. One of them dies meanwhile. A sensor measures depth in two of three
    frames, and half of another is masked."""

    def otherwise(config: SubmapConfig, position: MapState, levels: jax.Array, frames: jax.Array) -> jax.Array:
        return (is_due(config, position, levels, frames) | (position.frame == 13)) & (position.frame != 18)

    monkeypatch.setattr(mapped_pass, "is_due", otherwise)
    receive = pool._Process.receive
    answers = count()

    def dying(self: pool._Process) -> Answer:
        if next(answers) == 25:
            raise EOFError
        return receive(self)

    monkeypatch.setattr(pool._Process, "receive", dying)
    images = np.resize(frames, (24, *frames.shape[1:]))
    images[5] = images[5].mean((0, 1)) + 0.1 * (images[5] - images[5].mean((0, 1)))
    folder = write_frames(tmp_path / "walk", images)
    for name in ("masks", "depth"):
        (tmp_path / name).mkdir()
    row, column = np.indices((56, 70))
    for i, image in enumerate(images):
        Image.fromarray(np.uint8(255 * ((column > 35) | (i != 8)))).save(tmp_path / "masks" / f"img{i + 1}.png")
        if i % 3:
            millimetres = (1000 + 900 * image.mean(-1)) * (row > 9)
            Image.fromarray(millimetres.astype(np.uint16)).save(tmp_path / "depth" / f"img{i + 1}.png")
    sensors = ("--masks", tmp_path / "masks", "--depth", tmp_path / "depth")
    one, two = both(folder, checkpoint, tmp_path, "--submaps", 6, *sensors)
    np.testing.assert_array_equal(table(one / "submaps.txt")[:, 2], [0, 7, 12, 14, 18, 23])
    assert_same(one, two)
    assert len(in_threads) == 3


def test_a_frame_that_cannot_be_read_ends_the_run_after_those_before_it(
    checkpoint: Path, frames: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], in_threads: list[Here]
) -> None:
    folder = write_frames(tmp_path / "walk", frames[:12])
    (folder / "img10.png").write_bytes(b"nonsense")
    out = tmp_path / "out"
    assert run(main, folder, "--checkpoint", checkpoint, "--out", out, *OPTIONS, "--split", 2) == 1
    assert "img10.png: is not an image" in capsys.readouterr().err
    assert len(table(out / "trajectory.txt")) == 9
    words = (folder, "--checkpoint", checkpoint, "--out", tmp_path / "one", *OPTIONS)
    assert run(main, *words, "--save-every", 2) == 1
    assert run(main, *words, "--resume", "--split", 2) == 1
    assert "holds a run of one process" in capsys.readouterr().err


def test_processes_that_die_again_and_again_end_the_run(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They cannot even be started."""
    monkeypatch.setattr(pool, "PROCESS", "ivggt_jax.no_such_module")
    assert run(main, folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", *OPTIONS, "--split", 1) == 1
    assert "processes died 3 times over the frames from number 0 on: exit code 1, " in capsys.readouterr().err


def test_an_error_of_a_process_is_not_taken_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError of reading is none of the channel."""
    ours, theirs = Pipe()
    monkeypatch.setattr(process.loading, "load", lambda *_: (_ for _ in ()).throw(OSError("Input/output error")))
    with theirs, ours:
        ours.send(SimpleNamespace(checkpoint="demo", precision="float32"))
        with pytest.raises(OSError, match="Input/output"):
            process.serve(process.ProcessConfig(channel=os.dup(theirs.fileno())))
    ours, theirs = Pipe()
    ours.close()
    with theirs:
        assert process.serve(process.ProcessConfig(channel=os.dup(theirs.fileno()))) == 0


def test_a_process_that_cannot_be_started_ends_the_run(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(pool.subprocess, "Popen", refused)
    assert run(main, folder, "--checkpoint", checkpoint, *OPTIONS, "--out", tmp_path / "out", "--split", 2) == 1
    assert "Resource temporarily unavailable" in capsys.readouterr().err


def test_a_run_that_was_stopped_begins_anew(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_threads: list[Here]
) -> None:
    out, words = tmp_path / "two", ("--checkpoint", checkpoint, *OPTIONS)
    next_frame, asked = pool.Pool.next, count()

    def interrupted(self: pool.Pool) -> Seen | None:
        if next(asked) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return next_frame(self)

    with monkeypatch.context() as patch:
        patch.setattr(pool.Pool, "next", interrupted)
        assert run(main, folder, *words, "--out", out, "--split", 2) == 130
    assert 0 < len(table(out / "trajectory.txt")) < FRAMES
    assert run(main, folder, *words, "--out", out, "--split", 2, "--resume") == 0
    assert run(main, folder, *words, "--out", tmp_path / "one") == 0
    assert_same(tmp_path / "one", out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--split", 0), "at least one process"),
        (("--split", 2, "--submaps", "off"), "leave --submaps off out"),
        (("--split", 2), "short for one: give --submaps"),
        (("--split", 2, "--heads", "camera", "depth", "tracks"), "follows no tracks"),
        (("--split", 2, "--preset", "fast"), "takes frames one by one, not 4"),
        (("--split", 2, "--on-error", "skip"), "leave --on-error skip out"),
        (("--split", 2, "--max-memory", "8GB"), "plans no memory"),
    ],
)
def test_what_cannot_be_split_is_said(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple, message: str
) -> None:
    assert run(main, folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", *options) == 1
    assert message in capsys.readouterr().err


def test_too_many_processes_for_the_memory_are_refused(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "room_beside", lambda *_: Room(10**9, "a small machine"))
    assert run(main, folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", *OPTIONS, "--split", 3) == 1
    assert "takes about 0.4 GB, and a small machine leaves 1.0 GB" in capsys.readouterr().err


def test_a_job_hands_it_to_each_run(tmp_path: Path) -> None:
    assert BatchConfig(sources=("a",), split=3).of("a", tmp_path).split == 3


@pytest.mark.parametrize("source", ["-", "pipe", "walk.tif"])
def test_sources_that_cannot_be_entered_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """Before anything is loaded."""
    pages = [Image.new("RGB", (70, 56))] * 2
    pages[0].save(tmp_path / "walk.tif", save_all=True, append_images=pages[1:])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("walk.tif"))
    os.mkfifo(tmp_path / "pipe")
    assert run(main, source, "--out", tmp_path / "out", "--split", 2) == 1
    error = capsys.readouterr().err
    assert f"a video file, a folder or a list, not {source}" in error
    assert "loading" not in error


@pytest.mark.slow
def test_a_long_walk(tmp_path: Path) -> None:
    """2,000 frames of 112×84, the demo model, the same map, in the time that is printed. One thread a process."""
    walk, folder = Walk("return", 0, 84, 112), tmp_path / "walk"
    folder.mkdir()
    for first in range(0, 2000, 100):
        for number, image in enumerate(walk.part(first, 100).images, first):
            Image.fromarray(image).save(folder / f"{number:06d}.png")
    one_thread = 'export XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"'
    for name, words in (("one", ()), ("split1", ("--split", 1)), ("split2", ("--split", 2))):
        begun = time.monotonic()
        command = start("infer", folder, "--out", tmp_path / name, "--export", "tum", "npz", *words, limit=one_thread)
        _, errors = command.communicate(timeout=10 * PATIENCE)
        assert command.returncode == 0, errors
        print(f"{name}: {time.monotonic() - begun:.0f} s")
        assert_same(tmp_path / "one", tmp_path / name)
