"""Unlabelled folders and videos."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from ivggt_jax.sources.video import VideoReader
from ivggt_jax.train.data.batches import ClipBatches, ClipConfig
from ivggt_jax.train.data.clips import clips
from ivggt_jax.train.data.sampling import Sampling

WIDTH, HEIGHT = 64, 48


def grey(level: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)


def save_video(path: Path, frames: int, rate: int | Fraction) -> None:
    """Frame i is grey 4·i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(4 * i), format="rgb24")))
        container.mux(stream.encode())


def save_folder(folder: Path, frames: int) -> None:
    folder.mkdir(parents=True)
    for i in range(frames):
        Image.fromarray(grey(4 * i)).save(folder / f"{i}.png")


def level(image: Image.Image) -> float:
    return float(np.asarray(image).mean()) / 4


def test_folders_and_videos_are_found_at_any_depth(tmp_path: Path) -> None:
    save_folder(tmp_path / "a" / "b", 12)
    save_folder(tmp_path / "c", 3)
    save_video(tmp_path / "a" / "walk.mp4", 30, 30)
    (tmp_path / "a" / "notes.txt").write_text("not a video")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    dataset = clips([tmp_path])
    assert {Path(scene.name).name for scene in dataset.scenes} == {"walk.mp4", "b", "c"}
    assert len(dataset.broken) == 1 and "broken.mp4" in dataset.broken[0]
    assert not dataset.labelled


def test_folder_is_in_natural_order(tmp_path: Path) -> None:
    save_folder(tmp_path / "frames", 12)
    (scene,) = clips([tmp_path]).scenes
    assert [level(frame.image) for frame in scene.frames([0, 2, 10])] == [0, 2, 10]


@pytest.mark.parametrize(("rate", "step"), [(30, 3), (10, 1), (5, 1)])
def test_video_is_taken_at_ten_frames_a_second_at_most(tmp_path: Path, rate: int, step: int) -> None:
    save_video(tmp_path / "walk.mp4", 60, rate)
    (scene,) = clips([tmp_path / "walk.mp4"]).scenes
    assert len(scene) == 60 // step
    found = [level(frame.image) for frame in scene.frames([5, 2, 9])]
    steps = np.diff(sorted(found))
    np.testing.assert_allclose(steps, [3 * step, 4 * step], atol=0.5)
    assert found[1] < found[0] < found[2]
    assert level(scene.frame(4).image) == pytest.approx(4 * step, abs=0.5)


@pytest.mark.parametrize("rate", [5, 7, 10, 12, Fraction(24_000, 1001), Fraction(30_000, 1001), 60])
@pytest.mark.parametrize("name", ["walk.mp4", "walk.mkv"])
def test_a_video_is_as_long_as_its_frames(tmp_path: Path, name: str, rate: int | Fraction) -> None:
    """Its last frame begins one interval before its end; a frame too many would make its last clips unreadable."""
    for frames in (33, 40, 45):
        save_video(tmp_path / name, frames, rate)
        (scene,) = clips([tmp_path / name]).scenes
        assert len(scene) == len(list(VideoReader(tmp_path / name, fps=10).raw_frames()))


def test_what_a_video_is_like_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not for every clip of it."""
    save_video(tmp_path / "walk.mp4", 10, 5)
    (scene,) = clips([tmp_path]).scenes
    for position in range(3):
        scene.frame(position)
    assert [record.getMessage().endswith("not 10: all are taken") for record in caplog.records] == [True]


@pytest.mark.parametrize("name", ["walk.mp4", "walk.mkv"])
def test_every_frame_of_a_slow_video_is_where_it_belongs(tmp_path: Path, name: str) -> None:
    """Seven a second, whose times Matroska rounds to milliseconds."""
    save_video(tmp_path / name, 40, 7)
    (scene,) = clips([tmp_path / name]).scenes
    assert len(scene) == 40
    for position, raw in enumerate(VideoReader(tmp_path / name).raw_frames()):
        np.testing.assert_array_equal(scene.frame(position).image, raw.read().image)
    assert position == 39


def test_damaged_footage_is_skipped_and_named(tmp_path: Path) -> None:
    save_folder(tmp_path / "good", 8)
    save_folder(tmp_path / "bad", 8)
    (tmp_path / "bad" / "4.png").write_bytes(b"")
    config = ClipConfig(
        frames=(4, 4), resolutions=((28, 28),), weights=(1,), query_points=5, labelled=False, color_jitter=False
    )
    batches = ClipBatches(config, [(clips([tmp_path], Sampling(max_interval=3)), 1.0)], steps=12)
    loaded = [batches[step] for step in range(12)]
    skipped = [message for batch in loaded for message in batch.skipped]
    assert skipped and all("4.png: is empty" in message for message in skipped)
    assert {name for batch in loaded for name in batch.arrays} == {"images", "query_points"}
    assert loaded[0].arrays["images"].dtype == np.uint8
    assert loaded[0].arrays["query_points"].shape == (1, 5, 2)


def test_missing_footage_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        clips([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="no usable scene"):
        clips([tmp_path])


def test_thermal_pictures_are_stretched_as_infer_does(tmp_path: Path) -> None:
    """Counts from 21,000 to 23,500 would come out as one grey."""
    for index in range(3):
        counts = np.linspace(21_000, 23_500, WIDTH).astype(np.uint16)
        Image.fromarray(np.tile(counts, (HEIGHT, 1))).save(tmp_path / f"{index}.png")
    row = np.asarray(clips([tmp_path]).scenes[0].frame(1).image)[0, :, 0]
    assert row[0] in range(15, 30) and row[-1] in range(225, 240)


@pytest.mark.parametrize("ending", ["ts", "m2ts", "flv", "3gp", "wmv"])
def test_videos_of_every_ending_are_footage(ending: str, tmp_path: Path) -> None:
    container_format = {"m2ts": "mpegts", "wmv": "asf"}.get(ending)
    codec = {"flv": "flv", "wmv": "wmv2"}.get(ending, "libx264")
    with av.open(str(tmp_path / f"a.{ending}"), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(100), format="rgb24")))
        container.mux(stream.encode())
    (scene,) = clips([tmp_path]).scenes
    assert len(scene) in (19, 20)
    assert abs(np.asarray(scene.frame(5).image).astype(int) - 100).max() <= 3


def test_the_rate_is_the_videos_and_not_its_covers(tmp_path: Path) -> None:
    """A cover picture, the first stream, has 90,000 frames a second."""
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("png", rate=90_000)
        cover.width, cover.height, cover.pix_fmt = 8, 8, "rgb24"
        cover.disposition = Disposition.attached_pic
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")))
        for i in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(20 * i), format="rgb24")))
        container.mux(stream.encode())
    (scene,) = clips([path]).scenes
    found = [float(np.asarray(frame.image).mean()) for frame in scene.frames([2, 7])]
    assert found == pytest.approx([40, 140], abs=4)


def test_what_is_no_footage_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(grey(9)).save(tmp_path / "a.png")
    (tmp_path / "b.dng").write_bytes(b"raw")
    clips([tmp_path])
    assert "1 pictures or videos in it are left out" in caplog.text and "b.dng" in caplog.text
