"""Videos whose frames come at no rate, change their size, or are interlaced; files of the user that are called as our modules."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from sample_video import number_of, picture, write_video

from ivggt_jax.sources import Frame, SourceConfig, open_source


def frames_of(path: Path, **options) -> list[Frame]:
    with open_source(SourceConfig(frames=str(path), size=56, **options)) as source:
        return list(source)


def write(path: Path, images: list[np.ndarray], times: list[int], codec: str = "libx264", **settings) -> Path:
    """Pictures of one size at times in milliseconds; settings of the codec's context."""
    options = settings.pop("options", {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25 if codec == "mpeg2video" else 1000)
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


TIMES = [0, 33, 66, 100, 500, 533, 1000, 1900, 1933, 1966, 2100, 2500]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.nut"])
def test_a_variable_rate_keeps_its_times_and_is_thinned_by_them(name, tmp_path):
    """With --fps 5 the first frame at or after each fifth of a second, where there is one before the next."""
    path = write(tmp_path / name, [picture(number) for number in range(len(TIMES))], TIMES)
    found = frames_of(path)
    times = np.array([frame.timestamp for frame in found])
    np.testing.assert_allclose(times - times[0], np.array(TIMES) / 1000, atol=2e-3)
    assert [number_of(frame.image) for frame in found] == list(range(len(TIMES)))
    thinned = frames_of(path, fps=5)
    assert [number_of(frame.image) for frame in thinned] == [0, 4, 6, 7, 10, 11]


@pytest.mark.parametrize("other", [(96, 64), (48, 64)])
def test_a_size_that_changes_is_fitted_to_the_first(other, tmp_path, caplog):
    """As where two transport streams are joined: nothing is left out, and it is said once."""
    first = write_video(tmp_path / "1.ts", 5).read_bytes()
    images = [picture(number, *other) for number in range(5, 10)]
    second = write(tmp_path / "2.ts", images, [500 + 100 * number for number in range(5)]).read_bytes()
    (tmp_path / "a.ts").write_bytes(first + second)
    found = frames_of(tmp_path / "a.ts")
    assert [number_of(frame.image[16:26, 24:32]) for frame in found] == list(range(10))
    assert {frame.image.shape for frame in found} == {found[0].image.shape}
    times = [frame.timestamp for frame in found]
    assert times == sorted(set(times))
    said = [record.getMessage() for record in caplog.records if "fitted to that on white" in record.getMessage()]
    assert len(said) == (other == (48, 64))


def test_an_interlaced_video_comes_out_as_ffmpeg_gives_it(tmp_path):
    """Not deinterlaced, which the docs say, and every frame there, in its colours."""
    flags = {"flags": "+ildct+ilme", "field_order": "tt", "q": "2"}
    path = write(
        tmp_path / "a.mpg",
        [picture(number) for number in range(10)],
        list(range(0, 400, 40)),
        "mpeg2video",
        options=flags,
    )
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    assert all(frame.interlaced_frame for frame in decoded)
    found = frames_of(path)
    assert [number_of(frame.image) for frame in found] == list(range(10))
    assert len(found) == len(decoded)


@pytest.mark.parametrize("wide_range", [False, True])
def test_bt_2020_of_ordinary_range(wide_range, tmp_path):
    """The colour (200, 60, 40) by the matrix of BT.2020, its coefficients 0.2627 and 0.0593 for red and blue, within 3."""
    red, green, blue = np.array((200, 60, 40)) / 255
    luma = 0.2627 * red + (1 - 0.2627 - 0.0593) * green + 0.0593 * blue
    signal = np.array((luma, (blue - luma) / 1.8814, (red - luma) / 1.4746))
    scale, offset = (
        (255, np.array((0, 128, 128))) if wide_range else (np.array((219, 224, 224)), np.array((16, 128, 128)))
    )
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 9, 2 if wide_range else 1
        frame = av.VideoFrame(64, 48, "yuv420p")
        for plane, value in zip(frame.planes, np.rint(scale * signal + offset).astype(np.uint8), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        frame.colorspace, frame.color_range = 9, 2 if wide_range else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (found,) = frames_of(tmp_path / "a.mkv")
    np.testing.assert_allclose(found.image[20, 28], (200, 60, 40), atol=3)


def test_files_of_the_users_with_our_names_are_not_run(tmp_path):
    """`convert.py` and `train.py` in the folder where the command is run, which comes first in Python's path."""
    for name in ("convert", "train", "options", "memory", "model", "disk"):
        (tmp_path / f"{name}.py").write_text('raise SystemExit("theirs")\n')
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for command in ("convert", "train"):
        words = [sys.executable, "-m", "ivggt_jax", command, "--help"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and f"ivggt_jax {command}" in done.stdout and "theirs" not in done.stderr
