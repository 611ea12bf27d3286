"""`evaluate pose|depth|reconstruction` from the command line, on folders that tests make; and their protocols with a perfect model.

Images of the command-line runs are the readers' 8×6 pixels, brought to the tiny model's native 70×56.
"""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from dataset_layouts import FRAMES, MAKERS, POSES, write_text
from PIL import Image

from ivggt_jax import CacheConfig, Model, save
from ivggt_jax.evaluate import benchmarks
from ivggt_jax.evaluate.__main__ import main
from ivggt_jax.evaluate.benchmarks import DatasetOptions, Depth, Pose, Reconstruction
from ivggt_jax.evaluate.datasets import open_dataset
from ivggt_jax.evaluate.options import MemoryOptions
from ivggt_jax.evaluate.predict import Predicted, predict
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.sources.frame import Fit
from ivggt_jax.trajectories.alignment import inverse


@pytest.fixture(scope="module")
def checkpoint(tiny: Model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save(tiny, folder)
    return str(folder)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    return exit.value.code


@pytest.mark.parametrize(
    ("benchmark", "dataset", "measures"),
    [
        ("pose", "tum", {"ate", "rpe_translation", "rpe_rotation_degrees"}),
        ("pose", "kitti_odometry", {"ate", "rpe_translation", "rpe_rotation_degrees"}),
        ("pose", "scannet", {"ate", "rpe_translation", "rpe_rotation_degrees"}),
        ("depth", "bonn", {"abs_rel", "rmse", "delta_1"}),
        ("depth", "kitti", {"abs_rel", "rmse", "delta_1"}),
        ("depth", "sintel", {"abs_rel", "rmse", "delta_1"}),
        ("reconstruction", "7scenes", {"accuracy", "completeness", "chamfer", "normal_consistency", "f_score@0.05"}),
        ("reconstruction", "nrgbd", {"accuracy", "completeness", "chamfer", "normal_consistency", "f_score@0.05"}),
    ],
)
def test_from_the_command_line(benchmark, dataset, measures, checkpoint, tmp_path, capsys):
    """The table on standard output names the alignment; a file for the sequence, finite numbers, a page with plots."""
    name = MAKERS[dataset](tmp_path / "data")
    arguments = ("--dataset", dataset, "--root", str(tmp_path / "data"), "--out", str(tmp_path / "report"))
    assert run(benchmark, *arguments, "--checkpoint", checkpoint) == 0
    table = capsys.readouterr().out
    assert f"{benchmark} · {dataset} · alignment" in table
    assert name in table
    record = json.loads((tmp_path / "report" / f"{name.replace('/', '_')}.json").read_text())
    assert measures <= record["measures"].keys()
    assert all(record["measures"][measure] is not None for measure in measures)
    settings = record["settings"]
    assert settings["checkpoint"] == checkpoint
    assert {name: settings[name] for name in ("mode", "stride", "frames", "size")} == {
        "mode": "stream", "stride": 1, "frames": FRAMES, "size": 70,
    }  # fmt: skip
    assert {"alignment", "precision", "policy", "total budget", "submaps", "loops"} <= settings.keys()
    assert ("points from" in settings) == (benchmark == "reconstruction")
    assert "<svg" in (tmp_path / "report" / "report.html").read_text()


def test_damaged_and_unfit_sequences_are_skipped_and_named(checkpoint, tmp_path, capsys):
    """A sequence without poses, one with an image that cannot be decoded, and a sound one: its numbers, their reasons."""
    name = MAKERS["tum"](tmp_path)
    MAKERS["tum"](tmp_path, "no_truth")
    (tmp_path / "no_truth" / "groundtruth.txt").unlink()
    MAKERS["tum"](tmp_path, "broken")
    image = next((tmp_path / "broken" / "rgb").iterdir())
    data = bytearray(image.read_bytes())
    data[60:120] = bytes(60)
    image.write_bytes(data)
    arguments = ("--dataset", "tum", "--root", str(tmp_path), "--out", str(tmp_path / "report"))
    assert run("pose", *arguments, "--checkpoint", checkpoint) == 0
    table = capsys.readouterr().out
    assert name in table
    assert "skipped no_truth: tum has no true poses of it" in table
    assert f"skipped broken: {image}" in table


def test_a_full_disk_costs_one_sequence(checkpoint, tmp_path, capsys, monkeypatch):
    for name in ("first", "second"):
        MAKERS["tum"](tmp_path / "data", name)

    def full(model, sequence, *arguments, **options):
        if sequence.name == "second":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return predict(model, sequence, *arguments, **options)

    monkeypatch.setattr(benchmarks, "predict", full)
    arguments = ("--dataset", "tum", "--root", str(tmp_path / "data"), "--out", str(tmp_path / "report"))
    assert run("pose", *arguments, "--checkpoint", checkpoint) == 0
    assert re.search(r"skipped second: .*No space left.*TMPDIR", capsys.readouterr().out)
    assert (tmp_path / "report" / "first.json").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--stride", "-1"), "stride must be at least 1, not -1"),
        (("--max-frames", "-1"), "max_frames must be at least 1, not -1"),
        (("--cache.max-frames", "9"), "cache.max_frames follows from the frames"),
        (("--cloud-stride", "0"), "cloud_stride must be at least 1, not 0"),
    ],
)
def test_frames_that_nobody_can_mean(tmp_path, capsys, words, problem):
    assert run("reconstruction", "--dataset", "tum", "--root", str(tmp_path), *words) != 0
    assert problem in capsys.readouterr().err


def test_nothing_to_evaluate_is_an_error_that_says_why(checkpoint, tmp_path, capsys):
    MAKERS["kitti"](tmp_path)
    assert run("pose", "--dataset", "kitti", "--root", str(tmp_path), "--checkpoint", checkpoint) == 1
    assert "kitti has no true poses of it" in capsys.readouterr().err
    assert run("depth", "--dataset", "tum", "--root", str(tmp_path), "--checkpoint", checkpoint) == 1
    assert "holds no sequence of tum" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "mapping"),
    [
        ("stream", SubmapOptions(submaps="off")),
        ("stream", SubmapOptions(submaps="10", loops=True)),
        ("offline", SubmapOptions()),
    ],
)
def test_what_is_predicted_of_a_sequence(tiny: Model, tmp_path, mode, mapping):
    """Shapes, files and fits; points of the depth lie before the camera that predicted them, also where a map moves both."""
    MAKERS["7scenes"](tmp_path / "data")
    (sequence,) = [x for x in open_dataset("7scenes", tmp_path / "data") if not hasattr(x, "reason")]
    found = predict(
        tiny, sequence, tmp_path, heads=("depth", "points"), size=70, mode=mode,
        cache=MemoryOptions().cache_for(FRAMES), mapping=mapping,
    )  # fmt: skip
    assert (found.moves is not None) == mapping.loops
    assert found.cam_from_world.shape == (FRAMES, 3, 4)
    assert found.intrinsics.shape == (FRAMES, 3, 3)
    assert [fit.original_size for fit in found.fits] == [(8, 6)] * FRAMES
    for index in range(FRAMES):
        assert found.depth(index).shape == (56, 70)
        assert found.points(index).shape == (56, 70, 3)
        camera = found.cam_from_world[index]
        in_camera = found.projected_points(index) @ camera[:, :3].T + camera[:, 3]
        np.testing.assert_allclose(in_camera[..., 2], found.depth(index), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["offline", "causal"])
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--loops",), "--loops"),
        (("--submaps", "8", "--no-refine"), "--submaps, --no-refine"),
        (("--policy", "segment"), "--policy"),
        (("--cache.total-budget", "500"), r"--cache\.\*"),
    ],
)
def test_clips_have_no_memory_and_no_submaps(words, named, mode, tmp_path, capsys):
    arguments = ("--dataset", "tum", "--root", str(tmp_path), "--mode", mode)
    assert run("pose", *arguments, *words) == 1
    assert re.search(f"{named} apply only to streams: leave them out of --mode {mode}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("dataset", "words", "problem"),
    [
        (
            "long3d",
            ("--alignment", "fixed"),
            "--alignment applies only to data sets with true poses: leave it out of --dataset long3d",
        ),
        (
            "7scenes",
            ("--scale-factor", "1.0"),
            "--scale-factor applies only to long3d: leave it out of --dataset 7scenes",
        ),
        ("nrgbd", ("--cloud-stride", "2"), "--cloud-stride applies only to long3d: leave it out of --dataset nrgbd"),
        ("nrgbd", ("--subset", "110"), "--subset applies only to bonn, tum, scannet: leave it out of --dataset nrgbd"),
    ],
)
def test_options_of_other_data_sets(dataset, words, problem, tmp_path, capsys):
    MAKERS[dataset](tmp_path)
    assert run("reconstruction", "--dataset", dataset, "--root", str(tmp_path), *words) != 0
    assert problem in " ".join(capsys.readouterr().err.split())


def test_submaps_are_as_long_as_the_frames_of_a_pass_allow(tiny: Model):
    """As in the prediction, so that a report cannot fail after it."""
    memory = MemoryOptions(cache=CacheConfig(total_budget=4000, frames_per_step=10))
    data = DatasetOptions(dataset="tum", root=Path(), memory=memory, mapping=SubmapOptions(submaps="5", loops=True))
    chosen = data.mapping.choose(tiny.config, 40, frames_per_step=10)
    assert data.settings(tiny.config, 1, 40)["submaps"] == str(chosen)


def test_a_subset_is_among_the_settings(checkpoint, tmp_path):
    name = MAKERS["tum"](tmp_path / "data", suffix="_90")
    arguments = ("--dataset", "tum", "--root", str(tmp_path / "data"), "--out", str(tmp_path / "report"))
    words = ("--subset", "90", "--stride", "2", "--mode", "offline")
    assert run("depth", *arguments, "--checkpoint", checkpoint, *words) == 0
    settings = json.loads((tmp_path / "report" / f"{name}.json").read_text())["settings"]
    assert {name: settings[name] for name in ("subset", "stride", "frames", "mode")} == {
        "subset": 90, "stride": 2, "frames": FRAMES // 2, "mode": "offline",
    }  # fmt: skip
    assert not {"policy", "total budget", "submaps"} & settings.keys()


@pytest.mark.parametrize(("dataset", "stride"), [("nrgbd", FRAMES // 2), ("7scenes", 500)])
def test_a_stride_on_nrgbd_leaves_two_frames(dataset, stride, checkpoint, tmp_path):
    name = MAKERS[dataset](tmp_path / "data")
    arguments = ("--dataset", dataset, "--root", str(tmp_path / "data"), "--out", str(tmp_path / "report"))
    assert run("depth", *arguments, "--checkpoint", checkpoint, "--stride", "500") == 0
    settings = json.loads((tmp_path / "report" / f"{name.replace('/', '_')}.json").read_text())["settings"]
    assert (settings["stride"], settings["frames"]) == (stride, 2 if dataset == "nrgbd" else 1)


def test_damaged_depth_is_told_once_and_listed(perfect, checkpoint, caplog, capsys):
    path = perfect / "chess" / "seq-01" / "frame-000001.depth.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    measured(benchmarks.evaluate_depths, Depth(data=options(perfect, checkpoint)), perfect)
    assert len([record for record in caplog.records if str(path) in record.getMessage()]) == 1
    assert f"left out of chess/seq-01: {path}" in capsys.readouterr().out
    assert str(path) in json.loads((perfect / "report" / "chess_seq-01.json").read_text())["problems"][0]


def test_published_medians_are_of_whole_frames(perfect, checkpoint, monkeypatch):
    """The margins beside the middle 224 columns are predicted three times as far away."""
    whole = Perfect.points

    def points(self, index: int) -> np.ndarray:
        found = whole(self, index)
        found = found.copy()
        found[:, :28] *= 3
        found[:, -28:] *= 3
        return found

    monkeypatch.setattr(Perfect, "points", points)
    seen = []
    medians = benchmarks.reconstruction.align_medians
    monkeypatch.setattr(
        benchmarks.reconstruction, "align_medians", lambda *clouds: seen.append(len(clouds[0])) or medians(*clouds)
    )
    config = Reconstruction(data=options(perfect, checkpoint))
    measured(benchmarks.evaluate_reconstructions, config, perfect)
    settings = json.loads((perfect / "report" / "chess_seq-01.json").read_text())["settings"]
    assert seen == [FRAMES * Perfect.height * Perfect.width]
    assert settings["true points"] == FRAMES * 224 * 224
    assert abs(settings["scale"] - 1 / Perfect.unit) > 0.05


class Perfect(Predicted):
    """A model that says what is true, in another unit: 320×240 pixels of a wall, images taken as they are."""

    unit = 0.5
    height, width = 240, 320

    def wall(self, index: int) -> np.ndarray:
        """True depth in metres."""
        return np.add.outer(0.002 * np.arange(self.height), 0.004 * np.arange(self.width)) + 2 + 0.1 * index

    def depth(self, index: int) -> np.ndarray:
        return (self.unit * self.wall(index)).astype(np.float32)

    def points(self, index: int) -> np.ndarray:
        return self.projected_points(index)


@pytest.fixture
def perfect(tmp_path, monkeypatch) -> Path:
    """A 7-Scenes folder whose truth `predict` returns. Depth on disk is rounded to millimetres."""
    world_from_cam = POSES.copy()
    world_from_cam[1:, :, 3] += [[0, 0.1, 0], [0, 0, 0.2], [0.3, 0, 0]]
    relative = world_from_cam.copy()
    relative[..., 3] *= Perfect.unit
    cam_from_world = compose(inverse(relative), relative[:1])
    intrinsics = np.array([[262.5, 0, 159.75], [0, 262.5, 119.75], [0, 0, 1]])
    fit = Fit((Perfect.width, Perfect.height), (1, 1), (0, 0))
    found = Perfect(cam_from_world, np.tile(intrinsics, (FRAMES, 1, 1)), (fit,) * FRAMES, tmp_path)
    root = tmp_path / "data"
    write_text(root / "chess" / "TestSplit.txt", ["sequence1"])
    for index, pose in enumerate(world_from_cam):
        stem = root / "chess" / "seq-01" / f"frame-{index:06d}"
        write_text(stem.with_suffix(".pose.txt"), [*pose, [0, 0, 0, 1]])
        Image.fromarray(np.zeros((240, 320, 3), np.uint8)).save(stem.with_suffix(".color.png"))
        Image.fromarray(np.rint(1000 * found.wall(index)).astype(np.uint16)).save(stem.with_suffix(".depth.png"))
    monkeypatch.setattr(benchmarks, "predict", lambda *_, **__: found)
    return root


def compose(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rigid maps [...,3,4], b first."""
    return np.concatenate((a[..., :3] @ b[..., :3], a[..., :3] @ b[..., 3:] + a[..., 3:]), axis=-1)


def measured(run_benchmark, config, root: Path) -> dict[str, float]:
    assert run_benchmark(config) == 0
    return json.loads((root / "report" / "chess_seq-01.json").read_text())["measures"]


def options(root: Path, checkpoint: str) -> DatasetOptions:
    model = benchmarks.ModelOptions(checkpoint=checkpoint)
    return DatasetOptions(dataset="7scenes", root=root, out=root / "report", model=model)


@pytest.mark.parametrize(("alignment", "error"), [("sim3", 0), ("scale", 0), ("se3", 0.1), ("none", 0.1)])
def test_poses_of_a_perfect_model(perfect, checkpoint, alignment, error):
    """Up to scale: zero where the alignment takes the scale out (1e-6), more than 10 cm where it does not."""
    numbers = measured(benchmarks.evaluate_poses, Pose(data=options(perfect, checkpoint), alignment=alignment), perfect)
    assert numbers["rotation_max_degrees"] < 1e-5
    assert numbers["ate"] < 1e-6 if error == 0 else numbers["ate"] > error


@pytest.mark.parametrize(("alignment", "error"), [("scale", 0), ("scale&shift", 0), ("median", 0), ("metric", 0.5)])
def test_depth_of_a_perfect_model(perfect, checkpoint, alignment, error):
    """Half the true depth is 0.5 without alignment, and 0 but for millimetres with (5e-4)."""
    numbers = measured(
        benchmarks.evaluate_depths, Depth(data=options(perfect, checkpoint), alignment=alignment), perfect
    )
    assert numbers["abs_rel"] == pytest.approx(error, abs=5e-4)


@pytest.mark.parametrize("alignment", ["published", "fixed"])
@pytest.mark.parametrize("points_from", ["head", "depth"])
def test_reconstruction_of_a_perfect_model(perfect, checkpoint, alignment, points_from):
    """Within 3 mm, of which depth on disk is one half."""
    config = Reconstruction(data=options(perfect, checkpoint), alignment=alignment, points_from=points_from)
    numbers = measured(benchmarks.evaluate_reconstructions, config, perfect)
    assert numbers["accuracy"] < 0.003
    assert numbers["completeness"] < 0.003
    assert numbers["f_score@0.05"] == 1


@pytest.mark.parametrize("benchmark", ["depth", "reconstruction"])
def test_a_frame_without_truth_keeps_its_place_in_the_curves(benchmark, perfect, checkpoint):
    (perfect / "chess" / "seq-01" / "frame-000001.depth.png").unlink()
    data = options(perfect, checkpoint)
    if benchmark == "depth":
        numbers = measured(benchmarks.evaluate_depths, Depth(data=data), perfect)
    else:
        numbers = measured(benchmarks.evaluate_reconstructions, Reconstruction(data=data), perfect)
    assert numbers.get("abs_rel", numbers.get("accuracy")) < 0.003
    curves = json.loads((perfect / "report" / "chess_seq-01.json").read_text())["curves"]
    for values in curves.values():
        assert [value is None for value in values] == [False, True, False, False]


def test_a_long3d_scan(perfect, checkpoint, tmp_path, capsys):
    """The points of every second frame against a scan of the same wall, in the laser's axes."""
    root = tmp_path / "long"
    MAKERS["long3d"](root)
    found = benchmarks.predict()
    points = np.concatenate([found.projected_points(index).reshape(-1, 3) for index in (0, 2)])
    camera = benchmarks.evaluate_long3d.__globals__["CAM_FROM_LIDAR"]
    scan = (points / Perfect.unit - camera[:, 3]) @ camera[:, :3]
    header = ["VERSION 0.7", "FIELDS x y z", "SIZE 4 4 4", "TYPE F F F", f"POINTS {len(scan)}", "DATA binary"]
    (root / "library" / "dense_cloud_map.pcd").write_bytes(
        "".join(f"{line}\n" for line in header).encode() + scan.astype("<f4").tobytes()
    )
    folders = ("--root", str(root), "--out", str(root / "report"), "--checkpoint", checkpoint)
    choices = ("--scale-factor", "1.0", "--cloud-stride", "2")
    assert run("reconstruction", "--dataset", "long3d", *folders, *choices) == 0
    assert "reconstruction · long3d · alignment" in capsys.readouterr().out
    numbers = json.loads((root / "report" / "library.json").read_text())["measures"]
    # Gathering the points on the way hardly thins them: the protocol itself would have it so.
    expected = benchmarks.evaluate_long3d(points, scan, 1.0).errors.summary()
    for name in ("accuracy", "completeness"):
        assert numbers[name] == pytest.approx(expected[name], rel=0.02)
    assert numbers["f_score@0.05"] > 0.95
