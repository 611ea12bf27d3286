"""COLMAP and nerfstudio of a video: its frames in full size, decoded as the run decoded them, with one camera."""

import dataclasses
import json
import logging
import struct
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image  # before pycolmap: the zlib in pycolmap breaks Pillow's when it is loaded first
from sample_video import number_of, picture, write_video

from ivggt_jax.sources import Frame, SourceConfig, open_source
from ivggt_jax.sources.image_file import pages
from ivggt_jax.sources.source import open_reader
from ivggt_jax.writers import ExportOptions, Result, Writers, write_run_json
from ivggt_jax.writers.colmap import export_colmap
from ivggt_jax.writers.decoded import Decoded
from ivggt_jax.writers.nerfstudio import export_nerfstudio
from ivggt_jax.writers.saved_run import SavedRun

OPTIONS = ExportOptions(confidence=0, dense=10)
EXPORTS = {"colmap": export_colmap, "nerfstudio": export_nerfstudio}


def result(frame: Frame, focal: float) -> Result:
    """A frame seen by a camera that moves to the right, in front of a wall."""
    height, width, _ = frame.image.shape
    pose = np.concatenate((np.eye(3), [[-0.1 * frame.index], [0.0], [0.0]]), axis=1)
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    depth = np.full((height, width), 2.0, np.float32)
    points = np.dstack((*np.meshgrid(np.arange(width), np.arange(height)), depth)).astype(np.float32)
    return Result(frame, pose, intrinsics, depth, np.ones_like(depth), points, np.ones_like(depth))


def run_of(video: Path, out: Path, **config: Any) -> SavedRun:
    """A run over the video as `infer` leaves it: frames, and run.json. Each frame's focal length is 2 longer than the last's."""
    source = SourceConfig(**{"frames": str(video), "size": 56, **config})
    writers = Writers(["npz"], out, ExportOptions())
    with open_source(source) as frames:
        for number, frame in enumerate(frames):
            writers.write(result(frame, 50.0 + 2 * number))
    writers.close()
    write_run_json(out, {"settings": {"source": source}})
    return SavedRun(out)


def rotated(path: Path, moved: Path) -> Path:
    """The video with a display matrix that turns it by 90 degrees, as phones write it."""
    with av.open(str(path)) as source, av.open(str(moved), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data, one = moved.read_bytes(), 1 << 16
    upright, turned = (
        struct.pack(">9i", *values, 0, 0, 1 << 30) for values in ((one, 0, 0, 0, one, 0), (0, one, 0, -one, 0, 0))
    )
    place = data.rindex(upright)  # of the track, behind that of the movie
    moved.write_bytes(data[:place] + turned + data[place + len(turned) :])
    return moved


def wide_pixels(path: Path) -> Path:
    """A video whose pixels are twice as wide as high."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def animation(path: Path) -> Path:
    images = [Image.fromarray(picture(number)) for number in range(5)]
    images[0].save(path, save_all=True, append_images=images[1:])
    assert len(pages(path)) == 5
    return path


SOURCES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "plain": (lambda folder: write_video(folder / "a.mp4", 6), {}),
    "stride": (lambda folder: write_video(folder / "a.mp4", 9), {"stride": 4}),
    "rate": (lambda folder: write_video(folder / "a.mkv", 12), {"fps": 4, "start": 0.25, "end": 1.0}),
    "padded": (lambda folder: write_video(folder / "a.mp4", 3), {"mode": "pad"}),
    "turned": (lambda folder: rotated(write_video(folder / "a.mp4", 3), folder / "b.mp4"), {}),
    "wide pixels": (lambda folder: wide_pixels(folder / "a.mkv"), {}),
    "pages": (lambda folder: animation(folder / "a.tif"), {"stride": 2}),
}


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("kind", SOURCES)
def test_frames_are_those_that_the_run_read_in_full_size(kind: str, export: str, tmp_path: Path) -> None:
    make, config = SOURCES[kind]
    video = make(tmp_path)
    run = run_of(video, tmp_path / "out", **config)
    EXPORTS[export](run, run.out, OPTIONS)
    wanted = {
        raw.index: raw.read().image for raw in open_reader(SourceConfig(frames=str(video), **config)).raw_frames()
    }
    assert [path.name for path in sorted((run.out / "images").iterdir())] == [f"{number:06d}.jpg" for number in wanted]
    for number, image in wanted.items():
        with Image.open(run.out / "images" / f"{number:06d}.jpg") as found:
            assert found.size == image.size and found.mode == "RGB"
            assert np.abs(np.subtract(found, image, dtype=np.int16)).mean() < 2
            assert number_of(np.asarray(found)) == number_of(np.asarray(image))
    assert len(wanted) > 1 and (kind != "turned" or image.size == (48, 64))


@pytest.mark.parametrize("config", [{}, {"mode": "pad"}, {"size": 28}])
def test_one_camera_of_the_pictures_size_in_both_models(config: dict[str, Any], tmp_path: Path, caplog: Any) -> None:
    """The focal length is the median, and every pixel of the picture is where it was in the model's input."""
    pycolmap = pytest.importorskip("pycolmap")
    run = run_of(write_video(tmp_path / "a.mp4", 5), tmp_path / "out", **config)
    with caplog.at_level(logging.INFO):
        for export in EXPORTS.values():
            export(run, run.out, OPTIONS)
    fit = run[0].frame.fit
    (camera,) = pycolmap.Reconstruction(str(run.out / "sparse" / "0")).cameras.values()
    assert (camera.width, camera.height) == fit.original_size == (64, 48)
    np.testing.assert_allclose(camera.params[:2], 54.0 / np.array(fit.scale))
    corner = (np.array([[run[0].intrinsics[0, 2], run[0].intrinsics[1, 2]]]) + 0.5 - fit.offset) / fit.scale
    np.testing.assert_allclose(camera.params[2:], corner[0])
    assert f"one camera for 5 pictures: focal length {54 / fit.scale[0]:.1f} pixels" in caplog.text
    scene = json.loads((run.out / "transforms.json").read_text())
    np.testing.assert_allclose(
        [scene[name] for name in ("fl_x", "fl_y", "cx", "cy", "w", "h")], [*camera.params, 64, 48]
    )
    assert not any("fl_x" in frame for frame in scene["frames"])


def test_own_cameras_are_kept_on_request(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    run = run_of(write_video(tmp_path / "a.mp4", 3), tmp_path / "out")
    export_colmap(run, run.out, dataclasses.replace(OPTIONS, own_cameras=True))
    assert len(pycolmap.Reconstruction(str(run.out / "sparse" / "0")).cameras) == 3
    with pytest.raises(ValueError, match="contradict each other"):
        dataclasses.replace(OPTIONS, own_cameras=True, shared_camera=True)


@pytest.mark.parametrize("kind", ["gone", "shorter", "another", "at another rate", "no video", "unknown"])
def test_a_video_that_is_not_what_was_read_is_said_once(kind: str, tmp_path: Path, caplog: Any) -> None:
    video = write_video(tmp_path / "a.mp4", 4)
    run = run_of(video, tmp_path / "out")
    reason = {
        "gone": "there is no such file",
        "shorter": "has fewer frames than the run read: frames from 000002 on",
        "another": "is not what the run read: frames from 000000 on",
        "at another rate": "is not what the run read: frames from 000001 on",
        "no video": "is not a video that can be read",
    }
    match kind:
        case "gone":
            video.unlink()
        case "shorter":
            write_video(video, 2)
        case "another":
            write_video(video, 4, noisy=True)
        case "at another rate":
            write_video(video, 4, rate=5)
        case "no video":
            video.write_bytes(b"no video")
        case "unknown":
            (run.out / "run.json").unlink()
            run = SavedRun(run.out)
    export_colmap(run, run.out, OPTIONS)
    lines = [record.getMessage() for record in caplog.records if "as the model saw them" in record.getMessage()]
    assert len(lines) == (kind != "unknown")
    if lines:
        assert reason[kind] in lines[0] and lines[0].endswith("as the model saw them, 56×42 pixels")
    seen = [path for path in (run.out / "images").iterdir() if path.suffix == ".png"]
    assert len(seen) == {"shorter": 2, "at another rate": 3}.get(kind, 4)
    for path in seen:
        with Image.open(path) as image:
            np.testing.assert_array_equal(image, run[int(path.stem)].frame.image)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".TIF"])
def test_pictures_are_found_by_their_stem(ending: str, tmp_path: Path) -> None:
    """As ffmpeg or another program put a video's frames into a folder."""
    run = run_of(write_video(tmp_path / "a.mp4", 2), tmp_path / "out")
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (64, 48), (100 * number, 0, 0)).save(folder / f"{number:06d}{ending}")
    export_nerfstudio(run, run.out, dataclasses.replace(OPTIONS, images=folder))
    for number in range(2):
        assert (run.out / "images" / f"{number:06d}{ending}").samefile(folder / f"{number:06d}{ending}")


def test_two_pictures_of_one_stem_and_none_are_refused(tmp_path: Path) -> None:
    run = run_of(write_video(tmp_path / "a.mp4", 2), tmp_path / "out")
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.new("RGB", (64, 48)).save(folder / "1.png")
    options = dataclasses.replace(OPTIONS, images=folder)
    with pytest.raises(ValueError, match="frames has none of the pictures"):
        export_nerfstudio(run, tmp_path / "none", options)
    for ending in (".jpg", ".png"):
        Image.new("RGB", (64, 48)).save(folder / f"000000{ending}")
    with pytest.raises(ValueError, match=r"000000.jpg and .*000000.png may both be frame 000000: leave one"):
        export_nerfstudio(run, tmp_path / "two", options)


@pytest.mark.parametrize("export", EXPORTS)
def test_pictures_are_let_go_one_by_one(export: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the video."""
    run = run_of(write_video(tmp_path / "a.mp4", 12), tmp_path / "out")
    seen: list[weakref.ref[Image.Image]] = []
    most = 0
    find = Decoded.picture

    def counted(self: Decoded, frame: Frame) -> Image.Image | None:
        nonlocal most
        picture = find(self, frame)
        assert picture is not None
        seen.append(weakref.ref(picture))
        most = max(most, sum(reference() is not None for reference in seen))
        return picture

    monkeypatch.setattr(Decoded, "picture", counted)
    EXPORTS[export](run, run.out, OPTIONS)
    assert len(seen) == 12 and most <= 2
