"""Text, NumPy and JSON outputs of single frames, read back and checked by reprojection."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from writer_scene import FITS, camera, known_pixels, result

from ivggt_jax.writers import ExportOptions, Writers, read_run_json, write_run_json


def write(out: Path, name: str, items, **options) -> None:
    writers = Writers([name], out, ExportOptions(**options))
    try:
        for item in items:
            writers.write(item)
    finally:
        writers.close()


def test_trajectory_is_world_from_camera(tmp_path):
    write(tmp_path, "tum", [result(index) for index in range(0, 40, 10)])
    rows = np.loadtxt(tmp_path / "trajectory.txt")
    np.testing.assert_array_equal(rows[:, 0], [0, 10, 20, 30])
    for row in rows:
        pose = camera(int(row[0]))
        np.testing.assert_allclose(row[1:4], pose[:, 3], atol=1e-8)
        np.testing.assert_allclose(Rotation.from_quat(row[4:]).as_matrix(), pose[:, :3], atol=1e-8)


def test_trajectory_keeps_the_sources_seconds(tmp_path):
    item = result(0)
    frame = dataclasses.replace(item.frame, timestamp=1403636579.763556)
    write(tmp_path, "tum", [dataclasses.replace(item, frame=frame)])
    assert (tmp_path / "trajectory.txt").read_text().splitlines()[1].startswith("1403636579.763556 ")


def test_evo_reads_the_trajectory(tmp_path):
    file_interface = pytest.importorskip("evo.tools.file_interface")
    write(tmp_path, "tum", [result(index) for index in range(5)])
    trajectory = file_interface.read_tum_trajectory_file(tmp_path / "trajectory.txt")
    expected = np.stack([camera(index) for index in range(5)])
    np.testing.assert_allclose(np.stack(trajectory.poses_se3)[:, :3], expected, atol=1e-8)


@pytest.mark.parametrize("fit", FITS)
def test_text_outputs_reproject_known_points_to_the_original_pixels(fit, tmp_path):
    items = [result(index, FITS[fit]) for index in (0, 25)]
    write(tmp_path, "tum", items)
    write(tmp_path, "intrinsics", items)
    poses, cameras = np.loadtxt(tmp_path / "trajectory.txt"), np.loadtxt(tmp_path / "intrinsics.txt")
    for item, pose, (frame, fx, fy, cx, cy, width, height) in zip(items, poses, cameras, strict=True):
        assert (frame, (width, height)) == (item.frame.index, FITS[fit].original_size)
        points, pixels = known_pixels(item)
        x, y, z = ((points - pose[1:4]) @ Rotation.from_quat(pose[4:]).as_matrix()).T
        np.testing.assert_allclose(np.stack((fx * x / z + cx, fy * y / z + cy), axis=-1), pixels, atol=1e-4)


def test_kitti_is_world_from_camera_row_by_row(tmp_path):
    write(tmp_path, "kitti", [result(index) for index in (0, 9)])
    rows = np.loadtxt(tmp_path / "kitti.txt")
    np.testing.assert_allclose(rows.reshape(2, 3, 4), [camera(0), camera(9)], atol=1e-8)


def test_evo_reads_kitti(tmp_path):
    file_interface = pytest.importorskip("evo.tools.file_interface")
    write(tmp_path, "kitti", [result(index) for index in range(3)])
    poses = np.stack(file_interface.read_kitti_poses_file(tmp_path / "kitti.txt").poses_se3)
    np.testing.assert_allclose(poses[:, :3], [camera(index) for index in range(3)], atol=1e-8)


def test_depth_is_a_sixteen_bit_picture_in_units_that_the_record_holds(tmp_path):
    item = result(0)
    depth = item.depth.copy()
    depth[0, :4] = np.nan, np.inf, -1, 1e6
    mask = np.ones(depth.shape, bool)
    mask[5:7] = False
    frame = dataclasses.replace(item.frame, mask=mask)
    writers = Writers(["depth"], tmp_path, ExportOptions())
    writers.write(item)
    writers.write(dataclasses.replace(item, frame=dataclasses.replace(frame, index=3), depth=depth))
    unit = writers.record()["depth"]["unit"]
    writers.close()
    assert item.depth.max() * 7 < 65535 * unit <= item.depth.max() * 16
    with Image.open(tmp_path / "depth" / "000003.png") as picture:
        assert picture.mode == "I;16"
        steps = np.asarray(picture)
    unknown = ~mask
    unknown[0, :4] = True
    assert not steps[unknown].any()
    np.testing.assert_allclose(steps[~unknown] * unit, item.depth[~unknown], atol=unit / 2 + 1e-6)


@pytest.mark.parametrize("name", ["depth", "video", "ply"])
def test_an_output_without_its_head_says_which_is_missing(name, tmp_path):
    item = result(0, depth=None, points=None)
    with pytest.raises(ValueError, match="needs depth.*--heads"):
        write(tmp_path, name, [item])


def test_npz_holds_what_the_result_holds(tmp_path):
    item = result(12, FITS["padded"], tracks=np.ones((5, 2), np.float32), visibility=np.zeros(5, np.float32))
    mask = np.arange(112 * 168).reshape(112, 168) % 3 > 0
    item = dataclasses.replace(item, frame=dataclasses.replace(item.frame, mask=mask), moving=~mask)
    write(tmp_path, "npz", [item])
    with np.load(tmp_path / "frames" / "000012.npz") as saved:
        for field in dataclasses.fields(item):
            if field.name not in ("frame", "map"):
                np.testing.assert_array_equal(saved[field.name], getattr(item, field.name))
                assert saved[field.name].dtype == getattr(item, field.name).dtype
        np.testing.assert_array_equal(saved["image"], item.frame.image)
        np.testing.assert_array_equal(saved["mask"], mask)
        assert (saved["index"], saved["name"]) == (12, "000012.png")
        assert np.isnan(saved["timestamp"])
        np.testing.assert_array_equal(saved["original_size"], (600, 480))
        np.testing.assert_array_equal((saved["scale"], saved["offset"]), ((0.2, 0.2), (24, 8)))


def test_npz_in_half_precision_stays_finite(tmp_path):
    item = result(0)
    confidence = item.depth_confidence * np.float32(1e9)  # beyond float16
    write(
        tmp_path, "npz", [dataclasses.replace(item, depth_confidence=confidence, points=None)], frames_dtype="float16"
    )
    with np.load(tmp_path / "frames" / "000000.npz") as saved:
        assert saved["depth"].dtype == np.float16
        assert saved["depth_confidence"].max() == np.finfo(np.float16).max
        assert saved["cam_from_world"].dtype == np.float64
        assert "points" not in saved
        np.testing.assert_allclose(saved["depth"], item.depth, rtol=2**-11)


def test_points_of_saved_frames_are_as_fine_far_away(tmp_path):
    """Half precision has steps of 0.25 at 300 units, which a later cloud would show as layers."""
    item = result(0)
    far = item.points + np.float32(300)
    write(tmp_path, "npz", [dataclasses.replace(item, points=far)], frames_dtype="float16")
    with np.load(tmp_path / "frames" / "000000.npz") as saved:
        np.testing.assert_array_equal(saved["points"], far)


def test_run_json_holds_any_plain_value_and_says_how_to_read_the_rest(tmp_path):
    record = {
        "settings": ExportOptions(),
        "frames": Path("a/b"),
        "timings": {"p50": np.float32(1.5), "p95": float("nan")},
        "lengths": np.arange(3),
        "heads": ("camera", "depth"),
        "note": None,
    }
    write_run_json(tmp_path, record)
    read = read_run_json(tmp_path)
    assert read["settings"]["max_points"] == 2_000_000
    assert read["frames"] == "a/b"
    assert read["timings"] == {"p50": 1.5, "p95": None}
    assert read["lengths"] == [0, 1, 2]
    assert read["heads"] == ["camera", "depth"]
    assert read["conventions"]["scale"].startswith("up to scale")
    write_run_json(tmp_path, record | {"metric": {"frames_with_depth": 3, "from_frame": 2}})
    assert read_run_json(tmp_path)["conventions"]["scale"] == "metres, by a depth sensor, from frame 2 on"
    json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)


def test_run_json_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run.json does not exist: .* is not the output folder of a run"):
        read_run_json(tmp_path)
    with pytest.raises(TypeError, match="cannot hold .* of type set"):
        write_run_json(tmp_path, {"heads": {"camera"}})
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json is not JSON"):
        read_run_json(tmp_path)
