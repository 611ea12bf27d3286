"""Files that FFmpeg takes for videos, and what videos say of their length. Pictures are of one colour each, 96×64."""

import base64
import io
import tarfile
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ivggt_jax.runs import progress
from ivggt_jax.runs.progress import Progress
from ivggt_jax.sources import Frame, SourceConfig, SourceError, open_source

COLOURS = (40, 120, 200)
SIZE = 96, 64


def jpegs() -> list[bytes]:
    files = [io.BytesIO() for _ in COLOURS]
    for file, colour in zip(files, COLOURS, strict=True):
        Image.new("L", SIZE, colour).convert("RGB").save(file, "JPEG")
    return [file.getvalue() for file in files]


def frames_of(path: Path) -> list[Frame]:
    with open_source(SourceConfig(frames=str(path), size=56)) as source:
        return list(source)


def in_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<x/>")
        for number, content in enumerate(jpegs()):
            archive.writestr(f"word/media/image{number}.jpg", content)


def in_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for number, content in enumerate(jpegs()):
            entry = tarfile.TarInfo(f"{number}.jpg")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def in_pdf(path: Path) -> None:
    first, *others = (Image.new("RGB", SIZE, (colour,) * 3) for colour in COLOURS)
    first.save(path, "PDF", save_all=True, append_images=others)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.pdf", in_pdf),
        ("a.docx", in_zip),
        ("a.cbz", in_zip),
        ("a.tar", in_tar),
        ("a.ps", lambda path: path.write_bytes(b"%!PS-Adobe-3.0\n" + b"x" * 500 + b"".join(jpegs()))),
        ("a.mht", lambda path: path.write_bytes(b"MIME-Version: 1.0\r\n\r\n" + b"\r\n--x\r\n".join(jpegs()))),
        ("Thumbs.db", lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0" + bytes(500) + bytes(300).join(jpegs()))),
    ],
)
def test_what_holds_pictures_is_no_video(name, write, tmp_path):
    write(tmp_path / name)
    with pytest.raises(SourceError, match=f"{name}: is no video but a document or an archive that holds JPEG pictures"):
        frames_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.html", b'<html><img src="a.jpg"></html>' * 50),
        ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="data:;base64,' + base64.b64encode(jpegs()[0])),
        ("a.md", b"hello world\n" * 100),
        ("a.json", b'{"a": 1}'),
        ("a.bin", np.random.default_rng(0).integers(0, 256, 50_000, np.uint8).tobytes()),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}" + bytes(800)),
    ],
)
def test_what_shows_nothing_is_no_video(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"{name}: is not a video that can be read"):
        frames_of(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mjpeg", "a.MJPG", "of a camera.mjpg"])
def test_jpeg_after_jpeg_plays(name, tmp_path):
    """And not the first picture alone. A camera's own stream has a line before each."""
    part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
    contents = [part % (len(content), content) for content in jpegs()] if "camera" in name else jpegs()
    (tmp_path / name).write_bytes(b"".join(contents))
    found = frames_of(tmp_path / name)
    assert [int(frame.image.mean().round()) for frame in found] == pytest.approx(COLOURS, abs=2)
    times = [frame.timestamp for frame in found]
    assert times == sorted(set(times))


def test_a_program_streams_length_is_an_estimate(tmp_path):
    """It says nothing of its last frame's duration, nor of what was cut off before: never is it given as certain."""
    with av.open(str(tmp_path / "a.mpg"), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(75):
            pixels = np.full((SIZE[1], SIZE[0], 3), 3 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with open_source(SourceConfig(frames=str(tmp_path / "a.mpg"), size=56)) as source:
        assert source.length is None and 60 < (source.expected_length or 0) <= 75
        assert len(list(source)) == 75


def test_an_estimate_is_called_one_and_may_be_passed(monkeypatch, capsys):
    monkeypatch.setattr("ivggt_jax.runs.progress.first_frame", lambda state: None)  # of a state that is made up here
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)

    class Settings:
        cache, slots, model = type("Cache", (), {"total_budget": 10}), 1, None

    state = type("State", (), {"settings": Settings})
    for sure in (True, False):
        shown = Progress(2, 0, state, sure=sure)
        for _ in range(3):
            shown.advance(np.ones(1))
        shown.close()
    lines = [line.partition(",")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("frame ")]
    assert lines == ["frame 1/2", "frame 2/2", "frame 3", "frame 1 of about 2", "frame 2 of about 2", "frame 3"]
