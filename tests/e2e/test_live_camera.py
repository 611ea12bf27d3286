"""`ivggt` with a live camera: where its stream begins, and how it ends."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from commands import PATIENCE, run

from ivggt_jax import Model, StreamState, infer
from ivggt_jax.infer import main
from ivggt_jax.runs.resume import read_state
from ivggt_jax.sources import SourceError


class Camera:
    """Gives a noisy frame every tenth of a second."""

    def __init__(self, frames: int, width: int = 70):
        self.left, self.width, self.released = frames, width, False

    def read(self):
        time.sleep(0.1)
        self.left -= 1
        return self.left >= 0, np.random.default_rng(0).integers(0, 256, (56, self.width, 3), np.uint8)

    def release(self) -> None:
        self.released = True


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Cameras of six frames, which nobody finds again once they are lost; the list has what was asked for."""
    found: list[str] = []

    def open_once(address: str) -> Camera:
        found.append(address)
        if len(found) > 1:
            raise SourceError("nothing answers")
        return Camera(6)

    monkeypatch.setattr("ivggt_jax.sources.camera.open_capture", open_once)
    monkeypatch.setattr("ivggt_jax.sources.camera.RECONNECT_SECONDS", 0.05)
    monkeypatch.setattr("ivggt_jax.sources.camera.SECONDS_BETWEEN_TRIES", 0.01)
    return found


@pytest.mark.parametrize("checked", [False, True])
def test_a_live_stream_begins_with_what_is_seen_when_everything_is_compiled(
    checkpoint: Path, tmp_path: Path, monkeypatch, capsys, checked: bool
) -> None:
    """And not with the frame that told the size, nor with those that were compared with a trajectory; how long a pose takes is
    told and kept."""
    camera, steps = Camera(10_000), []
    known = tmp_path / "known.txt"
    since = np.arange(0, 60 * PATIENCE, 0.02)
    pose = [since, since**2, np.zeros((4, len(since))), np.ones(len(since))]
    np.savetxt(known, np.vstack([time.time() + since, *pose]).T, fmt="%.6f")

    def compile_slowly(model: Model, state: StreamState, moving: bool) -> None:
        steps.append(state.frame.shape)
        time.sleep(0.5)

    monkeypatch.setattr("ivggt_jax.sources.camera.open_capture", lambda address: camera)
    monkeypatch.setattr(infer, "compile_step", compile_slowly)
    out = tmp_path / "out"
    arguments = ("http://host/live", "--max-frames", 3, "--checkpoint", checkpoint, "--out", out, "--export", "npz",
                 *(("--scale-from", known) if checked else ()))  # fmt: skip
    assert run(main, *arguments) == 0
    first, *others = sorted(int(path.stem) for path in (out / "frames").iterdir())
    assert len(others) == 2 and first >= 3 + 10 * checked, "at ten frames a second, half a second is five"
    record = json.loads((out / "run.json").read_text())
    assert record["frames"] == 3 and steps == [(1,)]
    assert 0 < record["milliseconds_from_capture_to_pose"]["p50"] < 1000 * PATIENCE
    said = capsys.readouterr().err
    assert "before the first frame is taken" in said and "ms after its frame" in said


def test_a_live_panorama_begins_with_the_views_of_one_picture(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest one; `--max-frames` counts pictures, as for every source."""
    monkeypatch.setattr("ivggt_jax.sources.camera.open_capture", lambda address: Camera(10_000, 112))
    monkeypatch.setattr(infer, "compile_step", lambda *_: time.sleep(0.5))
    arguments = ("http://host/live", "--max-frames", 2, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--export", "npz",
                 "--camera", "equirectangular", "--camera-towards", 0, 90, 180)  # fmt: skip
    assert run(main, *arguments) == 0
    found = sorted(int(path.stem) for path in (tmp_path / "out" / "frames").iterdir())
    pictures = [found[0] // 3, found[3] // 3]
    assert found == [3 * picture + view for picture in pictures for view in range(3)] and pictures[0] >= 3


def test_an_unplugged_camera_leaves_what_was_done(checkpoint: Path, tmp_path: Path, opened, capsys) -> None:
    """What is built at the end, too: this is its end."""
    out = tmp_path / "out"
    arguments = ("--frames", "cam:0", "--checkpoint", checkpoint, "--out", out, "--budget", 290, "--export", "tum",
                 "nerfstudio")  # fmt: skip
    assert run(main, *arguments) == 1
    assert "the camera is lost: it stopped after 6 frames" in capsys.readouterr().err
    frames = len(np.loadtxt(out / "trajectory.txt", ndmin=2))
    assert json.loads((out / "run.json").read_text())["frames"] == frames >= 1
    assert len(json.loads((out / "transforms.json").read_text())["frames"]) == frames
    assert read_state(out) is None, "its frames do not come again"
    opened.clear()  # it is plugged in again
    assert run(main, *arguments, "--resume") == 0
    assert len(np.loadtxt(out / "trajectory.txt", ndmin=2)) == frames


def test_a_camera_is_closed_when_the_last_frame_is_done(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    """What it delivers while the exports are built is not counted."""
    camera, seen = Camera(10_000), []
    monkeypatch.setattr("ivggt_jax.sources.camera.open_capture", lambda address: camera)
    monkeypatch.setattr(infer, "_build", lambda *arguments: seen.append(camera.released))
    arguments = ("--frames", "cam:0", "--max-frames", 2, "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert run(main, *arguments) == 0
    assert seen == [True]


def test_a_record_holds_no_password(checkpoint: Path, tmp_path: Path, opened) -> None:
    arguments = ("--frames", "rtsp://me:secret@host/live", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert run(main, *arguments) == 1
    text = (tmp_path / "out" / "run.json").read_text()
    assert "rtsp://host/live" in text and "secret" not in text
