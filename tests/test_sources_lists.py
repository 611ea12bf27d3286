"""Lists of files as people have them, and what is no list."""

import codecs
import io
import os
import sys

import numpy as np
import pytest
from PIL import Image
from sample_video import write_video

from ivggt_jax.sources import SourceConfig, SourceError, open_source

NAMES = ["a.png", "b c.png", "sub/d.png", "it's.png"]


@pytest.fixture
def place(tmp_path):
    """Four pictures, whose grey level is 8 times their number."""
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (28, 28), (8 * number,) * 3).save(tmp_path / name)
    return tmp_path


def frames_of(frames, **config):
    with open_source(SourceConfig(frames=str(frames), size=28, **config)) as source:
        return list(source)


def shades(frames):
    return [round(float(frame.image.mean()) / 8) for frame in frames]


def plain(names=NAMES):
    return "".join(f"{name}\n" for name in names)


LISTS = {
    "plain": plain().encode(),
    "a mark": codecs.BOM_UTF8 + plain().encode(),
    "a mark and CRLF": codecs.BOM_UTF8 + plain().replace("\n", "\r\n").encode(),
    "UTF-16": plain().encode("utf-16"),
    "UTF-16, big end first": codecs.BOM_UTF16_BE + plain().encode("utf-16-be"),
    "UTF-32": plain().encode("utf-32"),
    "CR": plain().replace("\n", "\r").encode(),
    "double quotes": "".join(f'"{name}"\n' for name in NAMES).encode(),
    "single quotes": "".join(f"'{name}'\n" for name in NAMES).encode(),
    "comments": b"# four pictures\n#\n" + plain().encode(),
    "backslashes": plain().replace("/", "\\").encode(),
    "dots": "".join(f"./{name}\n" for name in NAMES).encode(),
    "ffmpeg": b"ffconcat version 1.0\nfile a.png\nfile 'b c.png'\nfile sub/d.png\nfile 'it'\\''s.png'\n",
    "ffmpeg without its first line": b"# made by hand\nfile 'a.png'\nfile b\\ c.png\nfile 'sub/d.png'\nfile it\\'s.png\n",
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("from_stdin", [False, True])
def test_lists_are_read(place, monkeypatch, kind, from_stdin):
    (place / "list.txt").write_bytes(LISTS[kind])
    if from_stdin:
        if kind == "CR":
            pytest.skip("a stream is read by its lines")
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "stdin", (place / "list.txt").open())
    found = frames_of("-" if from_stdin else place / "list.txt")
    assert shades(found) == [0, 1, 2, 3] and {frame.timestamp for frame in found} == {None}
    if from_stdin:
        sys.stdin.close()


TIMED = {
    "TUM": (".txt", "# color images\n# timestamp filename\n1.5 a.png\n2.25 b c.png\n", [1.5, 2.25]),
    "TUM, associated": (".txt", "1.5 a.png 1.51 depth/a.png\n2.25 sub/d.png 2.26 depth/d.png\n", [1.5, 2.25]),
    "EuRoC": (
        ".csv",
        "#timestamp [ns],filename\n1403636579763555584,a.png\n1403636579813555456,b c.png\n",
        [1403636579.763555584, 1403636579.813555456],
    ),
    "commas": (".csv", "0.0, a.png\n0.5, b c.png\n", [0.0, 0.5]),
    "whole seconds": (".txt", "0 a.png\n1 b c.png\n", [0.0, 1.0]),
    "tabs": (".lst", "10.0\ta.png\n10.5\tb c.png\n", [10.0, 10.5]),
    "ffmpeg": (".ffconcat", "ffconcat version 1.0\nfile a.png\nduration 0.5\nfile 'b c.png'\n", [0.0, 0.5]),
    "ffmpeg, a last duration": (".txt", "file a.png\nduration 0.25\nfile a.png\nduration 1\n", [0.0, 0.25]),
}


@pytest.mark.parametrize("kind", TIMED)
@pytest.mark.parametrize("from_stdin", [False, True])
def test_times_in_lists_are_kept(place, monkeypatch, kind, from_stdin):
    ending, text, times = TIMED[kind]
    (place / f"list{ending}").write_text(text)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    found = frames_of("-" if from_stdin else place / f"list{ending}")
    assert [frame.timestamp for frame in found] == times
    assert found[0].path.name == "a.png" and found[0].name == "a.png"


def test_eurocs_pictures_are_in_a_folder_beside_the_list(tmp_path):
    (tmp_path / "data").mkdir()
    for shade, time in enumerate(("1403636579763555584", "1403636579813555456")):
        Image.new("RGB", (28, 28), (shade,) * 3).save(tmp_path / "data" / f"{time}.png")
    names = "1403636579763555584,1403636579763555584.png\n1403636579813555456,1403636579813555456.png\n"
    (tmp_path / "data.csv").write_text(f"#timestamp [ns],filename\n{names}")
    found = frames_of(tmp_path / "data.csv")
    assert [frame.path.name for frame in found] == ["1403636579763555584.png", "1403636579813555456.png"]
    assert [frame.timestamp for frame in found] == [1403636579.763555584, 1403636579.813555456]
    (tmp_path / "data.csv").write_text("1.5,nowhere.png\n")
    with pytest.raises(SourceError, match=f"{tmp_path / 'nowhere.png'}: there is no such file"):
        frames_of(tmp_path / "data.csv")


def test_a_video_in_a_list_is_said_to_be_one(tmp_path):
    path = write_video(tmp_path / "a.mkv", 4, 10)
    (tmp_path / "list.txt").write_text(f"{path.name}\n")
    with pytest.raises(SourceError, match=r"a\.mkv: is a video where a picture is wanted.*ivggt batch"):
        frames_of(tmp_path / "list.txt")


def test_names_that_are_times_are_so_on_standard_input(place, monkeypatch):
    for stem in ("1.5", "2.5"):
        Image.new("RGB", (28, 28)).save(place / f"{stem}.png")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdin", io.StringIO("1.5.png\n2.5.png\n"))
    assert [frame.timestamp for frame in frames_of("-")] == [1.5, 2.5]
    monkeypatch.setattr(sys, "stdin", io.StringIO("1.5.png\na.png\n"))
    with pytest.raises(SourceError, match=r"a\.png has no time after 1\.5"):
        frames_of("-")
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.png\n1.5.png\n"))
    assert [frame.timestamp for frame in frames_of("-")] == [None, None]


def test_names_that_begin_like_something_else(place):
    for name in ("#1.png", "12 apples.png", "file a.png"):
        Image.new("RGB", (28, 28), (40, 40, 40)).save(place / name)
    (place / "list.txt").write_text("12 apples.png\n#1.png\nfile a.png\n")
    assert shades(frames_of(place / "list.txt")) == [5, 5, 5]


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
@pytest.mark.parametrize("listed", ["latin-1", "utf-8"])
@pytest.mark.parametrize("on_disk", ["latin-1", "utf-8"])
@pytest.mark.parametrize("from_stdin", [False, True])
def test_names_that_are_not_utf_8(tmp_path, monkeypatch, listed, on_disk, from_stdin):
    if (listed, on_disk) == ("utf-8", "latin-1"):
        pytest.skip("a name in UTF-8 is that name")
    path = os.fsencode(tmp_path) + b"/" + "Größe.png".encode(on_disk)
    Image.new("RGB", (28, 28), (8, 8, 8)).save(os.fsdecode(path))
    (tmp_path / "list.txt").write_bytes("Größe.png\n".encode(listed))
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "list.txt").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert shades(frames_of("-" if from_stdin else tmp_path / "list.txt")) == [1]


def test_addresses_of_files_are_paths(place):
    (place / "list.txt").write_text(f"file://{place}/a.png\nfile://{place}/b%20c.png\n")
    assert shades(frames_of(place / "list.txt")) == [0, 1]


@pytest.mark.parametrize("address", ["http://example.org/a.png", "https://example.org/a.png", "s3://bucket/a.png"])
def test_addresses_are_to_be_downloaded(place, monkeypatch, address):
    (place / "list.txt").write_text(f"a.png\n{address}\n")
    with pytest.raises(SourceError, match=f"{address} is an address; download it"):
        frames_of(place / "list.txt")
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{address}\n"))
    with pytest.raises(SourceError, match=f"{address} is an address; download it"):
        frames_of("-")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_picture_on_standard_input(tmp_path, monkeypatch, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a", format=kind)
    with (tmp_path / "a").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(SourceError, match=r"-: holds no paths but something else, a picture .* zero bytes"):
            frames_of("-")
    (tmp_path / "a").rename(tmp_path / "a.txt")
    with pytest.raises(SourceError, match="is not a text file"):
        frames_of(tmp_path / "a.txt")


def test_a_line_without_end(monkeypatch, tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 200_000)
    with (tmp_path / "a").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(SourceError, match="a line has no end"):
            frames_of("-")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_gives_lines(place, monkeypatch):
    os.mkfifo(place / "pipe")
    monkeypatch.chdir(place)
    keeper = os.open(place / "pipe", os.O_RDWR)
    os.write(keeper, plain().encode())
    with open_source(SourceConfig(frames=str(place / "pipe"), size=28, max_frames=4)) as source:
        assert shades(list(source)) == [0, 1, 2, 3] and source.length == 4
    os.close(keeper)
    with pytest.raises(OSError, match="No such device"):  # nobody reads it any more
        os.open(place / "pipe", os.O_WRONLY | os.O_NONBLOCK)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_exists_is_not_called_missing(place):
    os.mkfifo(place / "e.png")
    with pytest.raises(SourceError, match=r"e\.png: is no file but a pipe or a device"):
        frames_of(place)
    (place / "list.txt").write_text("sub\n")
    with pytest.raises(SourceError, match="sub: is a folder"):
        frames_of(place / "list.txt")
    with pytest.raises(SourceError, match="/dev/null: is a device"):
        frames_of("/dev/null")
    (place / "list.txt").write_text("x" * 300 + ".png\n")
    with pytest.raises(SourceError, match=r"cannot be opened \(File name too long\)"):
        frames_of(place / "list.txt")


@pytest.mark.parametrize("text", ["file 'a.png\n", "1.5 a.png\nb c.png\n", "file a.png\nduration soon\nfile a.png\n"])
def test_a_line_that_fits_nothing_is_named(place, text):
    (place / "list.txt").write_text(text)
    with pytest.raises(SourceError, match=r"list\.txt: `.*` is (no line that ffmpeg reads|not a time and a path)"):
        frames_of(place / "list.txt")
