"""Every reader on a small folder in its layout that the test makes: whole, and with damaged members."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from ivggt_jax.evaluate.datasets import DATASETS, PLAIN, ReadOptions, Sequence, Skipped, open_dataset
from ivggt_jax.evaluate.datasets.files import damage

WIDTH, HEIGHT, FRAMES = 8, 6, 4
DEPTH = np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 100


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(path)
    return path


def write_depth(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DEPTH).save(path)
    return path


def write_text(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else ' '.join(map(str, row))}\n" for row in rows))
    return path


def pose(index):
    """world_from_cam [4, 4] of a frame."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [10 + index, 20, 30], degrees=True).as_matrix()
    matrix[:3, 3] = (index, 0.5, -2)
    return matrix


POSES = np.array([pose(index)[:3] for index in range(FRAMES)])


def tum_row(index, time):
    return (time, *POSES[index][:, 3], *Rotation.from_matrix(POSES[index][:, :3]).as_quat())


def times(offset=0.0):
    return [1305031102.175304 + 0.033 * index + offset for index in range(FRAMES)]


def make_7scenes(root):
    write_text(root / "chess" / "TestSplit.txt", ["sequence3", "sequence5"])
    for index in range(FRAMES):
        stem = root / "chess" / "seq-03" / f"frame-{index:06d}"
        write_image(stem.with_suffix(".color.png"))
        write_depth(stem.with_suffix(".depth.png"))
        write_text(stem.with_suffix(".pose.txt"), pose(index))
    return "chess/seq-03"


def make_nrgbd(root):
    opengl = [pose(index) @ np.diag([1, -1, -1, 1]) for index in range(FRAMES)]
    write_text(root / "kitchen" / "poses.txt", np.concatenate(opengl))
    for index in range(FRAMES):
        write_image(root / "kitchen" / "images" / f"img{index}.png")
        write_depth(root / "kitchen" / "depth" / f"depth{index}.png")
    return "kitchen"


def make_sintel(root):
    tag, size = np.float32(202021.25).tobytes(), np.array([WIDTH, HEIGHT], "<i4").tobytes()
    for index in range(FRAMES):
        name = f"frame_{index + 1:04d}"
        write_image(root / "training" / "final" / "alley_2" / f"{name}.png")
        numbers = np.concatenate((np.diag([500.0, 500, 1]).ravel(), np.linalg.inv(pose(index))[:3].ravel()))
        for folder, suffix, data in (
            ("depth", "dpt", size + (DEPTH / 1000).astype("<f4").tobytes()),
            ("camdata_left", "cam", numbers.astype("<f8").tobytes()),
        ):
            path = root / "training" / folder / "alley_2" / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tag + data)
    return "alley_2"


def make_tum(root, name="freiburg1_desk", suffix=""):
    for image, depth in zip(times(), times(0.005), strict=True):
        write_image(root / name / f"rgb{suffix}" / f"{image:.6f}.png")
        write_depth(root / name / f"depth{suffix}" / f"{depth:.6f}.png")
    # The truth is recorded at another rate: between any two poses that belong to images lies one that does not.
    rows = [tum_row(index, time) for index, time in enumerate(times(-0.004))]
    others = [tum_row(0, time + 0.0165) for time in times(-0.004)]
    rows = [row for pair in zip(rows, others, strict=True) for row in pair]
    write_text(root / name / f"groundtruth{suffix}.txt", ["# timestamp tx ty tz qx qy qz qw", *rows])
    return name


def make_bonn(root):
    make_tum(root, "rgbd_bonn_crowd2")
    return "crowd2"


def make_kitti(root):
    folder, name = root / "depth_selection" / "val_selection_cropped", "2011_09_26_drive_0002_sync_02"
    for index in range(FRAMES):
        stem = f"2011_09_26_drive_0002_sync_{{}}_{index:010d}_image_02.png"
        write_image(folder / "image_gathered" / name / stem.format("image"))
        write_depth(folder / "groundtruth_depth_gathered" / name / stem.format("groundtruth_depth"))
    return name


BASELINE = np.array([-0.06, 0.001, 0.002])


def make_kitti_odometry(root):
    intrinsics = np.array([[718.0, 0, 607], [0, 718, 185], [0, 0, 1]])
    projection = intrinsics @ np.concatenate((np.eye(3), BASELINE[:, None]), axis=1)
    grey = POSES.copy()
    grey[..., 3] += POSES[..., :3] @ BASELINE  # the centre of the grey camera, seen from the colour camera
    for index in range(FRAMES):
        write_image(root / "sequences" / "07" / "image_2" / f"{index:06d}.png")
    write_text(root / "poses" / "07.txt", grey.reshape(FRAMES, 12))
    write_text(root / "sequences" / "07" / "times.txt", [[0.1 * index] for index in range(FRAMES)])
    write_text(root / "sequences" / "07" / "calib.txt", ["P0: 1 2 3", "P2: " + " ".join(map(str, projection.ravel()))])
    return "07"


def make_scannet(root):
    for index in range(FRAMES):
        write_image(root / "scene0707_00" / "color" / f"{index * 3}.jpg")
        write_text(root / "scene0707_00" / "pose" / f"{index * 3}.txt", pose(index))
    write_text(root / "scene0707_00" / "intrinsic" / "intrinsic_color.txt", np.diag([1170.0, 1170, 1, 1]))
    return "scene0707_00"


def make_long3d(root):
    for index in range(FRAMES):
        write_image(root / "library" / "images" / f"{index}.jpg")
    header = ["VERSION 0.7", "FIELDS x y z", "SIZE 4 4 4", "TYPE F F F", "POINTS 2", "DATA ascii"]
    write_text(root / "library" / "dense_cloud_map.pcd", [*header, "0 0 0", "1 2 3"])
    return "library"


MAKERS = {
    "7scenes": make_7scenes,
    "nrgbd": make_nrgbd,
    "sintel": make_sintel,
    "bonn": make_bonn,
    "kitti": make_kitti,
    "kitti_odometry": make_kitti_odometry,
    "tum": make_tum,
    "scannet": make_scannet,
    "long3d": make_long3d,
}
UNITS = {"7scenes": 1000, "nrgbd": 1000, "sintel": 1000, "bonn": 5000, "tum": 5000, "kitti": 256}
WITHOUT_POSES = ("kitti", "long3d")


def only_sequence(name, root, options=PLAIN) -> Sequence:
    found = [member for member in open_dataset(name, root, options=options) if isinstance(member, Sequence)]
    assert len(found) == 1
    return found[0]


def test_every_data_set_is_tested():
    assert set(MAKERS) == set(DATASETS)


@pytest.mark.parametrize("name", MAKERS)
def test_a_whole_folder_is_read(name, tmp_path):
    made = MAKERS[name](tmp_path)
    sequence = only_sequence(name, tmp_path)
    assert (sequence.dataset, sequence.name) == (name, made)
    assert len(sequence) == FRAMES
    assert sequence.problems == ()
    assert all(path.is_file() for path in sequence.images)
    if name in WITHOUT_POSES:
        assert sequence.world_from_cam is None
    else:
        np.testing.assert_allclose(sequence.world_from_cam, POSES, atol=1e-6)
    if name in UNITS:
        depth = sequence.depth(2)
        assert depth.dtype == np.float32
        limit = 10 if name in ("7scenes", "nrgbd") else np.inf
        expected = DEPTH / UNITS[name]
        np.testing.assert_allclose(depth, np.where(expected > limit, 0, expected), rtol=1e-6)
    else:
        assert sequence.depth(2) is None
    assert (sequence.cloud is not None) == (name == "long3d")


@pytest.mark.parametrize("name", MAKERS)
def test_damaged_images_are_left_out_with_all_that_belongs_to_them(name, tmp_path):
    MAKERS[name](tmp_path)
    images = only_sequence(name, tmp_path).images
    images[0].write_bytes(b"")
    images[2].write_bytes(images[2].read_bytes()[:-20])
    sequence = only_sequence(name, tmp_path)
    assert sequence.images == (images[1], images[3])
    assert sequence.problems == (f"{images[0]} is empty", f"{images[2]} is cut off")
    if name not in WITHOUT_POSES:
        np.testing.assert_allclose(sequence.world_from_cam, POSES[[1, 3]], atol=1e-6)
    if name in UNITS:
        assert sequence.depth(1) is not None


@pytest.mark.parametrize("name", UNITS)
def test_damaged_depth_is_left_out_and_its_frame_stays(name, tmp_path):
    MAKERS[name](tmp_path)
    depths = only_sequence(name, tmp_path).depths
    depths[1].write_bytes(depths[1].read_bytes()[:-20])
    depths[2].write_bytes(b"")
    depths[3].unlink()
    sequence = only_sequence(name, tmp_path)
    assert len(sequence) == FRAMES
    assert [sequence.depth(index) is None for index in range(FRAMES)] == [False, True, True, True]
    assert len(sequence.problems) == 3
    assert {str(path) for path in depths[1:3]} < {problem.split(" is ")[0] for problem in sequence.problems}


@pytest.mark.parametrize("name", ["7scenes", "nrgbd", "sintel", "kitti", "scannet"])
def test_hidden_files_take_no_ones_place(name, tmp_path):
    """For each visible file of a frame a hidden one that a folder may list before it and another that it may list after it."""
    MAKERS[name](tmp_path)
    files = [path for path in tmp_path.rglob("*[0-9].*") if path.is_file()]
    for path in files:
        data = path.read_bytes()
        path.unlink()
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
        path.write_bytes(data)
        path.with_name(f".__{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    sequence = only_sequence(name, tmp_path)
    assert sequence.problems == ()
    if name not in WITHOUT_POSES:
        np.testing.assert_allclose(sequence.world_from_cam, POSES, atol=1e-6)


@pytest.mark.parametrize(("name", "focal"), [("7scenes", 525), ("nrgbd", 554.2562584220408)])
def test_the_camera_of_640_by_480_grows_with_the_pictures(name, focal, tmp_path):
    """A picture's corner is seen in the same direction at any size; another shape is another camera."""
    MAKERS[name](tmp_path)
    (matrix, *_) = only_sequence(name, tmp_path).intrinsics
    corner = np.linalg.inv(matrix) @ (WIDTH - 0.5, HEIGHT - 0.5, 1)
    np.testing.assert_allclose(corner, ((639.5 - 320) / focal, (479.5 - 240) / focal, 1))
    for path in only_sequence(name, tmp_path).images:
        Image.new("RGB", (16, 9)).save(path)
    skipped = next(iter(open_dataset(name, tmp_path)))
    assert (
        isinstance(skipped, Skipped)
        and "has 16×9 pixels: the camera of this data set takes pictures of 4:3" in skipped.reason
    )


def test_depth_damaged_in_its_middle_is_reported_when_it_is_read(tmp_path, caplog):
    make_nrgbd(tmp_path)
    sequence = only_sequence("nrgbd", tmp_path)
    data = bytearray(sequence.depths[1].read_bytes())
    data[len(data) // 2] ^= 0xFF
    sequence.depths[1].write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert sequence.depth(1) is None
        assert sequence[1:].depth(0) is None
    assert len(caplog.records) == 1, "once, however often it is read"
    assert str(sequence.depths[1]) in caplog.text
    assert sequence.problems == ()
    (problem,) = sequence.all_problems
    assert str(sequence.depths[1]) in problem


def test_depth_of_8_bits_is_not_depth(tmp_path, caplog):
    make_kitti(tmp_path)
    sequence = only_sequence("kitti", tmp_path)
    Image.fromarray(DEPTH.astype(np.uint8)).save(sequence.depths[0])
    assert sequence.depth(0) is None
    assert "16 bits" in caplog.text


@pytest.mark.parametrize("name", MAKERS)
def test_a_sequence_without_a_whole_image_is_skipped(name, tmp_path):
    made = MAKERS[name](tmp_path)
    for path in only_sequence(name, tmp_path).images:
        path.write_bytes(b"")
    skipped = next(iter(open_dataset(name, tmp_path)))
    assert isinstance(skipped, Skipped)
    assert skipped.name == made
    assert "no frame is left" in skipped.reason
    assert "is empty" in skipped.reason


@pytest.mark.parametrize("name", MAKERS)
def test_a_root_may_be_one_sequence(name, tmp_path, monkeypatch):
    """The folder of one sequence gives that one alone, under the name it has in the data set; also as the working folder."""
    made = MAKERS[name](tmp_path)
    folder = DATASETS[name].find(tmp_path, PLAIN)[made]
    shutil.copytree(folder, folder.with_name(f"{folder.name}_copy"))
    assert only_sequence(name, folder).name == made
    monkeypatch.chdir(folder)
    assert only_sequence(name, Path()).name == made


@pytest.mark.parametrize("name", MAKERS)
def test_an_empty_root_names_the_layout(name, tmp_path):
    with pytest.raises(ValueError, match="layout") as error:
        open_dataset(name, tmp_path)
    assert DATASETS[name].layout in str(error.value)


def test_unknown_names_are_refused_at_once(tmp_path):
    make_scannet(tmp_path)
    with pytest.raises(ValueError, match="kinect.*scannet"):
        open_dataset("kinect", tmp_path)
    with pytest.raises(ValueError, match=r"scene9.*scene0707_00"):
        open_dataset("scannet", tmp_path, only=["scene9"])


def test_only_the_wanted_sequences_are_read(tmp_path):
    make_tum(tmp_path, "b")
    make_tum(tmp_path, "a")
    assert [member.name for member in open_dataset("tum", tmp_path)] == ["a", "b"]
    assert [member.name for member in open_dataset("tum", tmp_path, only=["b"])] == ["b"]


def test_a_slice_is_a_part(tmp_path):
    make_tum(tmp_path)
    whole = only_sequence("tum", tmp_path)
    part = whole[1::2]
    assert part.images == whole.images[1::2]
    assert part.depths == whole.depths[1::2]
    np.testing.assert_array_equal(part.world_from_cam, whole.world_from_cam[1::2])


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


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("options", "option", "known"),
    [
        (ReadOptions(subset=110), "--subset", ("bonn", "tum", "scannet")),
        (ReadOptions(registered_depth=True), "--registered-depth", ("7scenes",)),
    ],
)
def test_options_that_a_data_set_has_not_are_refused(name, options, option, known, tmp_path):
    MAKERS[name](tmp_path)
    words = (
        "layout is"
        if name in known and option == "--subset"
        else f"{option} applies only to {', '.join(known)}: leave it out"
    )
    if name == "7scenes" and option == "--registered-depth":
        assert len(only_sequence(name, tmp_path, options)) == FRAMES
        return
    with pytest.raises(ValueError, match=words):
        open_dataset(name, tmp_path, options=options)


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


def test_a_file_of_another_kind_is_damaged(tmp_path):
    make_long3d(tmp_path)
    image = tmp_path / "library" / "images" / "1.jpg"
    image.write_bytes(b"not a picture at all")
    assert only_sequence("long3d", tmp_path).problems == (f"{image} is not a JPG file",)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="depths has 2 entries for 1 images"):
        Sequence("tum", "desk", (Path("a.png"),), depths=(None, None))


@pytest.mark.parametrize(
    ("behind", "whole"), [(b"\0" * 5000, True), (b"\0\0\0\x18ftypmp42" + b"\1" * 9000, True), (None, False)]
)
def test_a_film_behind_a_photograph_is_no_damage(behind: bytes | None, whole: bool, tmp_path: Path) -> None:
    """Motion photographs; and a photograph that is cut off is, though its thumbnail ends as one does."""
    path = tmp_path / "a.jpg"
    exif = b"Exif\0\0" + b"\xff\xd8 a thumbnail \xff\xd9"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (180, 240, 3), np.uint8)).save(path, exif=exif)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if behind is None else data + behind)
    assert damage(path) == (None if whole else f"{path} is cut off")
