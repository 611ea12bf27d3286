"""A source that is entered at a frame which was read before goes on as if it had been read from its beginning."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sample_video import write_video

from ivggt_jax.sources import Frame, SourceConfig, SourceError, open_source, video
from ivggt_jax.sources.frame import Mark

COUNT = 40
ENTRIES = (0, 1, 7, 11, -1)
"""Numbers of frames that are entered at."""


def assert_entered(config: SourceConfig) -> None:
    with open_source(config) as source:
        frames = list(source)
        for entry in ENTRIES:
            first = range(len(frames))[entry]
            found = list(source.frames_from(Mark.of(frames[first], first)))
            assert [described(frame) for frame in found] == [described(frame) for frame in frames[first:]]
            assert all(np.array_equal(a.image, b.image) for a, b in zip(found, frames[first:], strict=True))


def described(frame: Frame) -> tuple[object, ...]:
    return frame.index, frame.timestamp, frame.name, frame.fit, frame.path


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 3}, {"fps": 4.0}, {"start": 0.5, "end": 3.0}, {"max_frames": 17, "stride": 2}, {"fps": 7.0, "start": 0.3}],
)  # fmt: skip
def test_videos(tmp_path: Path, options: dict[str, Any]) -> None:
    """A key frame every five, and frames that are stored out of order."""
    path = write_video(tmp_path / "clip.mp4", COUNT, 10, codec_options={"g": "5", "bf": "2"})
    assert_entered(SourceConfig(frames=str(path), size=28, **options))


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi", "a.h264", "a.flv"])
def test_containers_that_make_it_hard(tmp_path: Path, name: str) -> None:
    """Times from elsewhere than zero, times that do not rise, and none at all: what cannot be sought is read from its beginning."""
    path = write_video(tmp_path / name, COUNT, 10, codec_options={"g": "6", "bf": "2"}, noisy=True)
    assert_entered(SourceConfig(frames=str(path), size=28))


def test_what_comes_before_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "long.mkv", 100, 10, codec_options={"g": "10"})
    with open_source(SourceConfig(frames=str(path), size=28)) as source:
        frame = list(source)[80]
        decoded: list[object] = []
        genuine = video.decode
        monkeypatch.setattr(video, "decode", lambda *a: (decoded.append(d) or d for d in genuine(*a)))
        assert [found.index for found in source.frames_from(Mark.of(frame, 80))] == list(range(80, 100))
    assert len(decoded) <= 50


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"max_frames": 14}])
def test_folders(tmp_path: Path, options: dict[str, Any]) -> None:
    for number in range(30):
        Image.new("RGB", (28, 28), (8 * number,) * 3).save(tmp_path / f"{number}.png")
    assert_entered(SourceConfig(frames=str(tmp_path), size=28, **options))


def test_a_frame_that_is_another_one_now_is_no_entry(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (28, 28), (8 * number,) * 3).save(tmp_path / f"{number}.png")
    with open_source(SourceConfig(frames=str(tmp_path), size=28)) as source:
        mark = Mark.of(list(source)[1], 1)
        Image.new("RGB", (28, 28), (200,) * 3).save(tmp_path / "1.png")
        with pytest.raises(SourceError, match="frame 1 is not what it was"):
            source.frames_from(mark)
