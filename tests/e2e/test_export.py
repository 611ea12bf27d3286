"""`python -m ivggt_jax.export` and `--align-to`: other files from saved frames, in the model's world or a known one."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import FRAMES, read_npz, run, write_frames
from filelock import FileLock
from PIL import Image
from scipy.spatial.transform import Rotation

from ivggt_jax import export, infer
from ivggt_jax.runs.known_trajectory import checked
from ivggt_jax.runs.output_folder import LOCK, MARKER
from ivggt_jax.runs.resume import begin
from ivggt_jax.sources import Fit, Frame, SourceConfig, open_source

SCALE, TURN, SHIFT = 3.0, Rotation.from_euler("xyz", (0.4, -1.0, 2.0)), np.array((5.0, -2.0, 9.0))
"""What takes the model's world to that of the known trajectory."""


@pytest.fixture(scope="module")
def saved(checkpoint: Path, frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with saved frames, from a folder of five."""
    base = tmp_path_factory.mktemp("saved")
    folder = write_frames(base / "frames", frames[:FRAMES])
    code = run(
        infer.main, "--frames", folder, "--checkpoint", checkpoint, "--out", base / "out", "--export", "tum", "npz"
    )
    assert code == 0
    return base / "out"


@pytest.fixture
def known(saved: Path, tmp_path: Path) -> Path:
    """The run's own trajectory in another world, every frame but the third, 0.01 s late."""
    rows = np.loadtxt(saved / "trajectory.txt")[[0, 1, 3, 4]]
    positions = SCALE * TURN.apply(rows[:, 1:4]) + SHIFT
    quaternions = (TURN * Rotation.from_quat(rows[:, 4:])).as_quat()
    path = tmp_path / "known.txt"
    np.savetxt(path, np.column_stack((rows[:, 0] + 0.01, positions, quaternions)), fmt="%.9f", header="a TUM file")
    return path


def test_exports_are_made_from_saved_frames(saved: Path, tmp_path: Path, capsys) -> None:
    assert run(export.main, saved, "--to", "colmap", "kitti", "ply", "--into", tmp_path, "--confidence", "20") == 0
    assert len((tmp_path / "kitti.txt").read_text().splitlines()) == FRAMES
    assert {path.name for path in (tmp_path / "sparse" / "0").iterdir()} == {
        "cameras.bin",
        "images.bin",
        "points3D.bin",
    }
    pictures = sorted((tmp_path / "images").iterdir())
    assert [path.name for path in pictures] == [f"img{i}.png" for i in range(1, FRAMES + 1)], (
        "the originals, found again"
    )
    with Image.open(pictures[0]) as picture:
        assert picture.size == (70, 56)
    assert run(export.main, tmp_path, "--to", "glb") == 1
    assert "run ivggt with --export npz" in capsys.readouterr().err
    assert run(export.main, saved, "--to", "npz") == 2
    assert "invalid choice 'npz'" in capsys.readouterr().err


def test_a_run_that_is_not_over_is_left_alone(saved: Path, tmp_path: Path, capsys) -> None:
    before = (saved / "trajectory.txt").stat().st_mtime_ns
    with FileLock(saved / LOCK):
        assert run(export.main, saved, "--to", "tum") == 1
        assert "another run is writing" in (shown := capsys.readouterr().err) and "choose another --into" in shown
        assert (saved / "trajectory.txt").stat().st_mtime_ns == before
        assert run(export.main, saved, "--to", "tum", "--into", tmp_path) == 0


def test_what_fails_is_named_and_the_rest_is_made(saved: Path, tmp_path: Path, capsys) -> None:
    options = ("--voxel", 1e-9, "--into", tmp_path)  # so small that all points lie beyond the last cube
    assert run(export.main, saved, "--to", "ply", "tum", *options) == 1
    assert "ply: " in capsys.readouterr().err
    assert (tmp_path / "trajectory.txt").exists() and not (tmp_path / "points.ply").exists()


def test_an_export_that_fails_leaves_the_earlier_files(saved: Path, tmp_path: Path, capsys) -> None:
    """The last saved frame is damaged, so each format has begun to write."""
    own = tmp_path / "own"
    shutil.copytree(saved, own)
    names = ("tum", "kitti", "intrinsics", "ply", "depth", "video")
    words = (export.main, own, "--to", *names, "--confidence", "20")
    assert run(*words) == 0
    results = ("trajectory.txt", "kitti.txt", "intrinsics.txt", "points.ply", "depth", "video.mp4")
    paths = sorted(file for name in results for file in ((own / name).rglob("*") if name == "depth" else [own / name]))
    before = {path: path.read_bytes() for path in paths}
    assert len(before) == len(results) - 1 + FRAMES
    last = own / "frames" / f"{FRAMES - 1:06d}.npz"
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    assert run(*words) == 1
    shown = capsys.readouterr().err
    assert all(f"{name}: " in shown for name in names)
    assert {path: path.read_bytes() for path in before} == before and not list(own.glob(".*.part"))
    last.write_bytes(whole)
    (own / "depth" / "000099.png").write_bytes(b"of an earlier, longer run")
    assert run(*words) == 0
    assert sorted(path.name for path in (own / "depth").iterdir()) == [
        path.name for path in paths if path.parent.name == "depth"
    ]


def test_a_video_goes_into_a_folder_with_a_colon(saved: Path, tmp_path: Path, monkeypatch) -> None:
    """FFmpeg takes what is before a colon for a protocol."""
    monkeypatch.chdir(tmp_path)
    assert run(export.main, saved, "--to", "video", "--into", "12:31") == 0
    (tmp_path / "12:31" / "video.mp4").rename(tmp_path / "12:31.mp4")
    with open_source(SourceConfig(frames="12:31.mp4")) as source:
        assert sum(1 for _ in source) == FRAMES


def test_what_a_run_lacks_is_said_before_anything_is_written(
    saved: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("rerun", "foxglove"):
        monkeypatch.setitem(sys.modules, package, None)
    assert run(export.main, saved, "--to", "tracks", "tum", "moving", "rrd", "mcap", "--into", tmp_path / "more") == 1
    shown = capsys.readouterr().err
    assert [line for line in shown.splitlines() if "→" in line] == [f"tum → {tmp_path / 'more'}"]
    for words in ("add tracks to --heads", "--moving separate", "ivggt_jax[rerun]", "ivggt_jax[ros]"):
        assert words in shown
    assert {path.name for path in (tmp_path / "more").iterdir()} == {"trajectory.txt", MARKER}


def test_the_unit_of_depth_written_later_is_recorded(saved: Path, tmp_path: Path) -> None:
    """In run.json, and in outputs.json where there is none."""
    own = tmp_path / "own"
    shutil.copytree(saved, own)
    before = json.loads((own / "run.json").read_text())
    assert run(export.main, own, "--to", "depth") == 0
    assert run(export.main, own, "--to", "ply", "--confidence", "20") == 0
    assert run(export.main, own, "--to", "depth", "--into", tmp_path / "other") == 0
    record = json.loads((own / "run.json").read_text())
    outputs = record.pop("outputs")
    assert record | {"outputs": before["outputs"]} == before
    assert outputs.keys() == {"depth", "ply"} | before["outputs"].keys()
    assert json.loads((tmp_path / "other" / "outputs.json").read_text()) == {"depth": outputs["depth"]}
    depth = read_npz(own / "frames" / "000000.npz")["depth"]
    for out in (own, tmp_path / "other"):
        steps = np.asarray(Image.open(out / "depth" / "000000.png"))
        np.testing.assert_allclose(outputs["depth"]["unit"] * steps, depth, atol=outputs["depth"]["unit"])


def test_an_unfinished_run_is_exported_elsewhere(saved: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    shutil.copytree(saved, out)
    begin(out, {})
    assert run(export.main, out, "--to", "glb") == 1
    assert "holds an unfinished run: use --into another folder" in capsys.readouterr().err
    assert not (out / "scene.glb").exists()
    assert run(export.main, out, "--to", "tum", "--into", tmp_path / "elsewhere") == 0


def test_a_full_disk_is_not_a_run_s_end(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be built is built when the run is resumed."""
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--export", "glb")
    with monkeypatch.context() as full:
        full.setattr(
            "ivggt_jax.export._build_one", lambda *_: (_ for _ in ()).throw(OSError("No space left on device"))
        )
        assert run(infer.main, *arguments) == 1
    assert "glb: No space left on device" in capsys.readouterr().err
    assert run(infer.main, *arguments, "--resume") == 0
    assert (tmp_path / "out" / "scene.glb").is_file()


def test_aligned_results_lie_in_the_known_world(saved: Path, known: Path, capsys) -> None:
    assert run(export.main, saved, "--to", "tum", "nerfstudio", "--align-to", known) == 0
    assert (
        f"4 of {FRAMES} frames have a pose, 1 of the model's units is 3 of the trajectory's" in capsys.readouterr().err
    )
    aligned, truth = np.loadtxt(saved / "aligned" / "trajectory.txt"), np.loadtxt(known)
    np.testing.assert_allclose(aligned[[0, 1, 3, 4], 1:4], truth[:, 1:4], atol=1e-4)
    turn = Rotation.from_quat(aligned[[0, 1, 3, 4], 4:]).inv() * Rotation.from_quat(truth[:, 4:])
    assert np.degrees(turn.magnitude()).max() < 1e-2
    record = json.loads((saved / "aligned" / "alignment.json").read_text())
    assert record["scale"] == pytest.approx(SCALE, rel=1e-5) and record["position_error_after_sim3"] < 1e-4
    depth = read_npz(saved / "frames" / "000000.npz")["depth"]
    steps = np.asarray(Image.open(saved / "aligned" / "nerfstudio_depth" / "000000.png"))
    np.testing.assert_allclose(steps / 1000, SCALE * depth, atol=6e-4)
    assert not (saved / "transforms.json").exists(), "what is outside aligned/ is in the model's unit"
    before = (saved / "trajectory.txt").read_bytes()
    assert run(export.main, saved, "--to", "tum", "--align-to", known, "--into", saved / ".." / saved.name) == 0
    assert (saved / "trajectory.txt").read_bytes() == before


def test_only_the_scale_is_taken_when_only_that_is_asked_for(saved: Path, known: Path, tmp_path: Path) -> None:
    assert run(export.main, saved, "--to", "tum", "--scale-from", known, "--into", tmp_path / "scaled") == 0
    scaled, own = (np.loadtxt(out / "trajectory.txt") for out in (tmp_path / "scaled", saved))
    np.testing.assert_allclose(scaled[:, 1:4], SCALE * own[:, 1:4], atol=1e-5)
    np.testing.assert_allclose(scaled[:, 4:], own[:, 4:], atol=1e-6)


def test_a_run_aligns_its_exports_at_its_end(checkpoint: Path, folder: Path, known: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--frames", folder, "--checkpoint", checkpoint, "--out", out, "--export", "tum", "--align-to", known)
    assert run(infer.main, *arguments) == 0
    np.testing.assert_allclose(
        np.loadtxt(out / "aligned" / "trajectory.txt")[[0, 1, 3, 4], 1:4], np.loadtxt(known)[:, 1:4], atol=1e-4
    )
    assert len(np.loadtxt(out / "trajectory.txt")) == FRAMES and len(list((out / "frames").iterdir())) == FRAMES


UNIX = 1305031102.0


@pytest.mark.parametrize(
    ("times", "poses", "fits"),
    [
        ([None] * 5, UNIX + np.arange(5), False),
        ([None] * 5, 100 + np.arange(5), False),
        ([None] * 5, 3 + np.arange(50), True),
        ([None] * 5, np.arange(50) / 30, False),  # seconds, of which some are whole
        (UNIX + np.arange(5) / 10, np.arange(5), False),
        (UNIX + np.arange(5) / 10, UNIX + np.arange(50) / 100, True),
        (UNIX + np.arange(5) / 10, UNIX - 60 + np.arange(50) / 100, False),
        (UNIX + np.arange(5) / 10, UNIX + 600 + np.arange(50) / 100, False),
        (UNIX + np.arange(5) / 10, 1e9 * UNIX + np.arange(5), True),  # nanoseconds
        (np.arange(12) / 10, 1.0 + np.arange(50) / 100, True),
        (np.arange(12) / 10, 60.0 + np.arange(50) / 100, True),  # as of a burst, after which pictures come slowly
        (np.arange(12) / 10, 600.0 + np.arange(50) / 100, False),
    ],
)
@pytest.mark.parametrize("length_known", [True, False])
def test_a_trajectory_is_checked_against_the_first_frames(tmp_path: Path, times, poses, fits, length_known) -> None:
    """Refused where no frame can have a pose; of frames without end only those that begin too late."""
    fit = Fit((14, 14), (1.0, 1.0), (0.0, 0.0))
    frames = [Frame(np.zeros((14, 14, 3), np.uint8), i, time, "", fit) for i, time in enumerate(times)]
    path = tmp_path / "known.txt"
    np.savetxt(path, [(time, 1, 2, 3, 0, 0, 0, 1) for time in poses], fmt="%.6f")
    endless = not length_known and len(frames) >= 10
    if fits or (endless and poses.min() > times[0]):
        assert list(checked(iter(frames), path, len(frames) if length_known else None)) == frames
    else:
        with pytest.raises(
            ValueError, match=r"known\.txt (has no pose for any frame|tells times, .* the frames have none)"
        ):
            checked(iter(frames), path, len(frames) if length_known else None)


def test_a_run_that_cannot_be_aligned_does_not_begin(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    known = tmp_path / "known.txt"
    np.savetxt(known, [(UNIX + i, i, i * i, 3, 0, 0, 0, 1) for i in range(9)], fmt="%.6f")
    out = tmp_path / "out"
    options = ("--frames", folder, "--checkpoint", checkpoint, "--out", out, "--align-to", known)
    assert run(infer.main, *options) == 1
    assert "known.txt has no pose for any frame" in capsys.readouterr().err and not out.exists()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"{UNIX + number + 0.01:.2f}.png")
    assert run(infer.main, *options) == 0
    np.testing.assert_allclose(np.loadtxt(out / "trajectory.txt")[:, 0], UNIX + 0.01 + np.arange(FRAMES), atol=1e-6)
    assert json.loads((out / "aligned" / "alignment.json").read_text())["frames_with_pose"] == FRAMES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("0 1 2 3 0 0 0 1\n1 1 2 3 0 0 0 1\n", "has poses for 2 of 5 frames, and three are needed"),
        (
            "".join(f"1305031102.{i} 1 2 3 0 0 0 1\n" for i in range(5)),
            "tells times, from 1305031102.000",
        ),
        ("1 2 3\n", "is not a trajectory in TUM format"),
        (None, "there is no such file"),
    ],
)
def test_a_trajectory_that_does_not_fit_is_one_clear_line(
    saved: Path, tmp_path: Path, capsys, content, words: str
) -> None:
    path = tmp_path / "poses.txt"
    if content:
        path.write_text(content)
    assert run(export.main, saved, "--to", "tum", "--align-to", path, "--into", tmp_path / "into") == 1
    shown = capsys.readouterr().err
    assert words in shown and str(path) in shown and not (tmp_path / "into").exists()
    assert run(export.main, saved, "--to", "tum", "--align-to", path, "--scale-from", path) == 1
    assert "not both" in capsys.readouterr().err
