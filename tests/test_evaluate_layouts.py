"""What is particular to one dataset's layout."""

from pathlib import Path

import numpy as np
import pytest
from dataset_layouts import (
    DEPTH,
    FRAMES,
    HEIGHT,
    POSES,
    WIDTH,
    make_7scenes,
    make_kitti_odometry,
    make_long3d,
    make_nrgbd,
    make_scannet,
    make_sintel,
    make_tum,
    only_sequence,
    pose,
    times,
    tum_row,
    write_depth,
    write_image,
    write_text,
)

from ivggt_jax.evaluate.datasets import ReadOptions, Skipped, open_dataset


def test_7scenes_reads_the_depth_it_is_asked_for_and_misses_sequences_that_are_not_there(tmp_path):
    make_7scenes(tmp_path)
    folder = tmp_path / "chess" / "seq-03"
    for path in list(folder.glob("*.depth.png")):
        path.rename(path.with_name(path.name.replace(".depth.", ".depth.proj.")))
    registered = only_sequence("7scenes", tmp_path, ReadOptions(registered_depth=True))
    assert registered.depth(0) is not None
    raw = only_sequence("7scenes", tmp_path)
    assert raw.depth(0) is None
    assert len(raw.problems) == FRAMES
    missing = [member for member in open_dataset("7scenes", tmp_path) if isinstance(member, Skipped)]
    assert [member.name for member in missing] == ["chess/seq-05"]


def test_poses_that_are_lost_are_unknown(tmp_path):
    make_scannet(tmp_path)
    write_text(tmp_path / "scene0707_00" / "pose" / "3.txt", np.full((4, 4), -np.inf))
    write_text(tmp_path / "scene0707_00" / "pose" / "6.txt", ["1 0 0 0", "what"])
    (tmp_path / "scene0707_00" / "pose" / "9.txt").unlink()
    sequence = only_sequence("scannet", tmp_path)
    assert np.isnan(sequence.world_from_cam[1:]).all()
    np.testing.assert_allclose(sequence.world_from_cam[0], POSES[0])
    assert len(sequence.problems) == 2  # what tracking lost is not damage


def test_nrgbd_poses_may_be_nan_or_missing(tmp_path):
    make_nrgbd(tmp_path)
    rows = np.concatenate([pose(0), np.full((4, 4), np.nan), pose(2)])
    write_text(tmp_path / "kitchen" / "poses.txt", rows)
    sequence = only_sequence("nrgbd", tmp_path)
    assert np.isnan(sequence.world_from_cam).all(axis=(1, 2)).tolist() == [False, True, False, True]
    assert sequence.problems == (f"{sequence.images[3]} has no pose",)
    write_text(tmp_path / "kitchen" / "poses.txt", rows[:-1])
    assert "11 rows" in next(iter(open_dataset("nrgbd", tmp_path))).reason


def test_tum_poses_are_found_by_time(tmp_path):
    make_tum(tmp_path)
    path = tmp_path / "freiburg1_desk" / "groundtruth.txt"
    # Frame 1's row is damaged and its neighbours are more than 0.02 s away; frame 3's row is taken away.
    lines = path.read_text().splitlines()
    lines[3] = "1305031102.2 what"
    path.write_text("\n".join([*lines[:4], *lines[5:7]]) + "\n")
    sequence = only_sequence("tum", tmp_path)
    assert np.isnan(sequence.world_from_cam).all(axis=(1, 2)).tolist() == [False, True, False, True]
    np.testing.assert_allclose(sequence.world_from_cam[[0, 2]], POSES[[0, 2]], atol=1e-9)
    assert f"{path} line 4" in sequence.problems[0]
    assert sequence.problems[1:] == tuple(f"{sequence.images[index]} has no pose within 0.02 s" for index in (1, 3))


def test_bonn_images_are_in_the_order_of_time(tmp_path):
    """Their names have no trailing zeros."""
    recorded = [1548266469.85281, 1548266469.9206, 1548266469.95112]
    for time in recorded:
        write_image(tmp_path / "rgbd_bonn_crowd2" / "rgb" / f"{time}.png")
    rows = [tum_row(index, time) for index, time in enumerate(recorded)]
    write_text(tmp_path / "rgbd_bonn_crowd2" / "groundtruth.txt", rows)
    sequence = only_sequence("bonn", tmp_path)
    assert [float(path.stem) for path in sequence.images] == recorded
    np.testing.assert_allclose(sequence.world_from_cam, POSES[:3], atol=1e-9)


@pytest.mark.parametrize("name", ["tum", "bonn"])
def test_published_subsets_lie_in_folders_of_their_own(name, tmp_path):
    make_tum(tmp_path, "rgbd_bonn_crowd2", suffix="_110")
    sequence = only_sequence(name, tmp_path, ReadOptions(subset=110))
    assert len(sequence) == FRAMES
    with pytest.raises(ValueError, match="subset=None"):
        open_dataset(name, tmp_path)


def test_names_without_times_go_in_order_or_not_at_all(tmp_path):
    folder = tmp_path / "desk"
    for index in range(FRAMES):
        write_image(folder / "rgb_90" / f"{index}.jpg")
    table = [tum_row(index, time) for index, time in enumerate(times())]
    write_text(folder / "groundtruth_90.txt", table)
    options = ReadOptions(subset=90)
    np.testing.assert_allclose(only_sequence("tum", tmp_path, options).world_from_cam, POSES, atol=1e-9)
    write_text(folder / "groundtruth_90.txt", table[:-1])
    assert "3 entries for 4 images" in next(iter(open_dataset("tum", tmp_path, options=options))).reason
    (folder / "groundtruth_90.txt").unlink()
    assert "neither" in next(iter(open_dataset("tum", tmp_path, options=options))).reason


def numbered(folder: Path, pattern: str, found: list[int], write) -> list[Path]:
    return [write(folder / pattern.format(number)) for number in found]


def test_numbered_depth_goes_to_the_images_of_its_numbers(tmp_path):
    """One file of each kind is missing. Depth is matched in order only if no number occurs in both."""
    numbered(tmp_path / "desk" / "rgb", "{:04d}.png", [0, 2, 3], write_image)
    files = numbered(tmp_path / "desk" / "depth", "d{:04d}.png", [0, 1, 3], write_depth)
    sequence = only_sequence("tum", tmp_path)
    assert sequence.depths == (files[0], None, files[2])
    assert sequence.problems == (f"{sequence.images[1]} has no depth",)
    for path in files:
        path.rename(path.with_name(f"{int(path.stem[1:]) + 100}.png"))
    assert [path.stem for path in only_sequence("tum", tmp_path).depths] == ["100", "101", "103"]
    for path, name in zip((tmp_path / "desk" / "depth").iterdir(), "abc", strict=True):
        path.rename(path.with_name(f"{name}.png"))
    assert [path.stem for path in only_sequence("tum", tmp_path).depths] == ["a", "b", "c"]


def test_a_pgm_of_fewer_bits_has_its_own_units(tmp_path):
    write_image(tmp_path / "desk" / "rgb" / "0.png")
    (tmp_path / "desk" / "depth").mkdir()
    path = tmp_path / "desk" / "depth" / "0.pgm"
    path.write_bytes(b"P5 %d %d 10000\n" % (WIDTH, HEIGHT) + DEPTH.astype(">u2").tobytes())
    np.testing.assert_allclose(only_sequence("tum", tmp_path).depth(0), DEPTH / 5000, rtol=1e-6)


@pytest.mark.parametrize("columns", [12, 16])
def test_a_scannet_subset_has_one_table(columns, tmp_path):
    for index in range(FRAMES):
        write_image(tmp_path / "scene0707_00" / "color_90" / f"frame_{index:04d}.jpg")
    rows = [pose(index).ravel()[:columns] for index in range(FRAMES)]
    write_text(tmp_path / "scene0707_00" / "pose_90.txt", rows)
    sequence = only_sequence("scannet", tmp_path, ReadOptions(subset=90))
    np.testing.assert_allclose(sequence.world_from_cam, POSES)
    assert sequence.intrinsics is None
    write_text(tmp_path / "scene0707_00" / "pose_90.txt", rows[1:])
    assert "3 rows for 4 images" in next(iter(open_dataset("scannet", tmp_path, options=ReadOptions(subset=90)))).reason


def test_sintel_cameras_may_be_damaged(tmp_path):
    make_sintel(tmp_path)
    folder = tmp_path / "training" / "camdata_left" / "alley_2"
    (folder / "frame_0002.cam").write_bytes(b"short")
    (folder / "frame_0003.cam").unlink()
    sequence = only_sequence("sintel", tmp_path)
    assert np.isnan(sequence.world_from_cam).all(axis=(1, 2)).tolist() == [False, True, True, False]
    np.testing.assert_array_equal(sequence.intrinsics[0], np.diag([500, 500, 1]))
    assert len(sequence.problems) == 2


def test_kitti_odometry_needs_its_calibration_and_its_rows(tmp_path):
    make_kitti_odometry(tmp_path)
    (tmp_path / "sequences" / "07" / "times.txt").unlink()  # nothing needs times
    assert len(only_sequence("kitti_odometry", tmp_path)) == FRAMES
    calibration = tmp_path / "sequences" / "07" / "calib.txt"
    whole = calibration.read_text()
    calibration.write_text("P2: 1 2 3\n")
    assert "no line P2" in next(iter(open_dataset("kitti_odometry", tmp_path))).reason
    calibration.write_text(whole)
    table = tmp_path / "poses" / "07.txt"
    write_text(table, table.read_text().splitlines()[:1])
    assert "07.txt has 1 rows" in next(iter(open_dataset("kitti_odometry", tmp_path))).reason


def test_long3d_images_lie_in_one_folder(tmp_path):
    make_long3d(tmp_path)
    assert len(only_sequence("long3d", tmp_path)) == FRAMES
    write_image(tmp_path / "library" / "other" / "0.jpg")
    assert "one folder" in next(iter(open_dataset("long3d", tmp_path))).reason
    (tmp_path / "library" / "dense_cloud_map.pcd").write_bytes(b"")
    assert "is empty" in next(iter(open_dataset("long3d", tmp_path))).reason
