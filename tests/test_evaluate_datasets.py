"""Every reader on a small folder in its layout: whole, and with damaged members."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_layouts import (
    DEPTH,
    FRAMES,
    HEIGHT,
    MAKERS,
    POSES,
    UNITS,
    WIDTH,
    WITHOUT_POSES,
    make_kitti,
    make_long3d,
    make_nrgbd,
    make_scannet,
    make_tum,
    only_sequence,
)
from PIL import Image

from ivggt_jax.evaluate.datasets import DATASETS, PLAIN, ReadOptions, Sequence, Skipped, open_dataset
from ivggt_jax.evaluate.datasets.files import damage


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
