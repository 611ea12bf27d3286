import io
import itertools
import os
from pathlib import Path

import pytest
from PIL import Image

from ivggt_jax.sources import SourceError
from ivggt_jax.sources.folder import FileReader, folder_images, glob_images, in_natural_order
from ivggt_jax.sources.lists import ImageFile, listed_images, streamed_images


def make_images(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, format="PNG")


def names(paths):
    return [path.name for path in paths]


def test_natural_order_without_hidden_files_and_others(tmp_path):
    make_images(tmp_path, "img10.png", "img2.png", "IMG1.PNG", "img2b.JPG", ".img0.png")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.png").mkdir()
    assert names(folder_images(tmp_path)) == ["IMG1.PNG", "img2.png", "img2b.JPG", "img10.png"]


def test_names_that_are_times_are_in_the_order_of_time(tmp_path):
    """Bonn's recordings drop trailing zeros."""
    times = ["9.98.png", "10.05.png", "10.85281.png", "10.9206.png", "10.92061.png", "10.95112.png", "11.2.png"]
    make_images(tmp_path, *reversed(times))
    assert names(folder_images(tmp_path)) == times


def test_two_numbers_in_a_name_are_counted(tmp_path):
    """<take>.<frame>: as decimals, 1.1 and 1.10 would be equal."""
    numbers = [f"{take}.{frame}.png" for take in (1, 2) for frame in range(5, 13)]
    make_images(tmp_path, *reversed(numbers))
    assert names(folder_images(tmp_path)) == numbers


def test_natural_order_takes_any_name():
    odd = ["²", "²3", "3", "a", "", "007", "7", "7a", "٣", "1.5.png", "1.50.png", "1.png", "1.5a.png", "1.5", "x" * 200]
    paths = [Path(name) for name in odd]
    expected = in_natural_order(paths)
    for shuffled in itertools.islice(itertools.permutations(paths), 0, 2000, 97):
        assert in_natural_order(shuffled) == expected


def test_glob_goes_folder_by_folder(tmp_path):
    make_images(tmp_path, "b10/1.png", "b2/3.png", "b2/10.png", "b2/.4.png")
    found = glob_images(str(tmp_path / "**" / "*.png"))
    assert [f"{path.parent.name}/{path.name}" for path in found] == ["b2/3.png", "b2/10.png", "b10/1.png"]


def test_list_keeps_its_order_and_starts_from_its_folder(tmp_path):
    (tmp_path / "list.txt").write_text("b.png\r\n\n  sub/a.png  \n/elsewhere/c.png")
    listed = [file.path for file in listed_images(tmp_path / "list.txt")]
    assert listed == [tmp_path / "b.png", tmp_path / "sub/a.png", Path("/elsewhere/c.png")]


def test_a_stream_of_paths_is_read_line_by_line():
    stream = io.StringIO("a.png\nb.png\n")
    paths = streamed_images(stream)
    assert next(paths) == ImageFile(Path("a.png"), "a.png")
    assert stream.read() == "b.png\n"


def test_a_folder_of_folders_or_of_videos_names_the_command(tmp_path):
    for name in (
        "room/rgb/1.png",
        "room/rgb/2.png",
        "room/.thumbs/1.png",
        "walk/a/frames/1.jpg",
        "takes/1.mp4",
        "takes/2.MOV",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "room/poses.txt").touch()
    with pytest.raises(SourceError, match=f"; {tmp_path}/room/rgb holds 2 pictures: ivggt {tmp_path}/room/rgb$"):
        folder_images(tmp_path / "room")
    with pytest.raises(
        SourceError, match=f"; {tmp_path}/walk/a/frames holds 1 picture: ivggt {tmp_path}/walk/a/frames$"
    ):
        folder_images(tmp_path / "walk")
    with pytest.raises(SourceError, match=f"; it holds 2 videos: ivggt batch {tmp_path}/takes$"):
        folder_images(tmp_path / "takes")
    with pytest.raises(SourceError, match=f"; {tmp_path}/room/rgb holds 2 pictures"):
        folder_images(tmp_path)


def test_nothing_there(tmp_path):
    (tmp_path / "clip.exr").touch()
    with pytest.raises(SourceError, match="no images in this folder"):
        folder_images(tmp_path)
    with pytest.raises(SourceError, match="no images match"):
        glob_images(str(tmp_path / "*.exr"))
    (tmp_path / "list.txt").write_text("\n\n")
    with pytest.raises(SourceError, match="lists no images"):
        listed_images(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"\xff\x00\xfe\n")
    with pytest.raises(SourceError, match="not a text file"):
        listed_images(tmp_path / "list.txt")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs file permissions that hold for this user")
def test_a_locked_folder(tmp_path):
    tmp_path.chmod(0)
    try:
        with pytest.raises(SourceError, match="cannot be read"):
            folder_images(tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 10])
def test_stride_and_length(tmp_path, stride):
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    reader = FileReader([ImageFile(path, path.name) for path in paths], stride)
    found = list(reader.raw_frames())
    assert [raw.index for raw in found] == list(range(0, 7, stride))
    assert names(paths[::stride]) == [raw.name for raw in found]
    assert reader.length == len(found)


def test_an_endless_stream_has_no_length():
    reader = FileReader(ImageFile(Path(f"{number}.png"), f"{number}.png") for number in itertools.count())
    assert reader.length is None and not reader.read_ahead
    assert [raw.index for raw in itertools.islice(reader.raw_frames(), 3)] == [0, 1, 2]
