import io
import logging
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from sample_video import number_of, write_video

from ivggt_jax.sources import Frame, SourceConfig, SourceError, open_source


def make_folder(folder, count, size=(28, 28)):
    """Images named 0.png, 1.png, … whose grey level is 8 times their number."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", size, (8 * number,) * 3).save(folder / f"{number}.png")
    return folder


def frames_of(**config):
    with open_source(SourceConfig(size=28, **config)) as source:
        return list(source)


def numbers(frames):
    return [number_of(frame.image) for frame in frames]


@pytest.fixture
def ten(tmp_path):
    return make_folder(tmp_path / "ten", 10)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mkv", 20, 10, codec_options={"g": "5"})


def test_a_frame(ten):
    frame = frames_of(frames=str(ten))[3]
    assert isinstance(frame, Frame)
    assert (frame.index, frame.name, frame.timestamp, frame.mask) == (3, "3.png", None, None)
    assert frame.image.shape == (28, 28, 3) and frame.image.dtype == np.uint8
    assert frame.fit.original_size == (28, 28)


def test_everything_that_can_be_named(ten, clip, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("ten/5.png\nten/2.png\n")
    assert numbers(frames_of(frames=str(ten))) == list(range(10))
    assert numbers(frames_of(frames=str(ten / "[2-4].png"))) == [2, 3, 4]
    assert numbers(frames_of(frames=str(ten / "7.png"))) == [7]
    assert numbers(frames_of(frames=str(tmp_path / "list.txt"))) == [5, 2]
    assert numbers(frames_of(frames=str(clip))) == list(range(20))
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{ten / '9.png'}\n{ten / '1.png'}\n"))
    assert numbers(frames_of(frames="-")) == [9, 1]


def test_a_gif_named_alone_is_a_video(tmp_path):
    pictures = [Image.new("RGB", (28, 28), (80 * number, 0, 0)) for number in range(3)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=200)
    frames = frames_of(frames=str(tmp_path / "a.gif"))
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 0.2, 0.4])
    assert len(frames_of(frames=str(tmp_path))) == 1


def test_home_folder(ten, monkeypatch):
    monkeypatch.setenv("HOME", str(ten.parent))
    monkeypatch.setenv("USERPROFILE", str(ten.parent))
    assert len(frames_of(frames="~/ten")) == 10
    assert len(frames_of(frames="~/ten/*.png")) == 10


def test_a_folder_with_brackets_is_no_pattern(tmp_path):
    assert len(frames_of(frames=str(make_folder(tmp_path / "a [1]", 2)))) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "no such file or folder"),
        ("https://example.org/a.mp4", "download the file"),
        ("*.png", "no images match"),
    ],
)
def test_nothing_there(name, words):
    with pytest.raises(SourceError, match=words) as caught:
        open_source(SourceConfig(frames=name))
    assert name in str(caught.value)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("max_frames", [None, 2, 50])
def test_lengths_of_folders_are_exact(ten, stride, max_frames):
    with open_source(SourceConfig(frames=str(ten), size=28, stride=stride, max_frames=max_frames)) as source:
        frames = list(source)
        assert source.length == source.expected_length == len(frames)
        assert [frame.index for frame in frames] == list(range(0, 10, stride))[:max_frames]


def test_lengths_of_videos_are_claims(clip):
    with open_source(SourceConfig(frames=str(clip))) as source:
        assert (source.length, source.expected_length) == (None, 20)
    with open_source(SourceConfig(frames=str(clip), max_frames=7)) as source:
        assert (source.length, source.expected_length) == (7, 7)
    with open_source(SourceConfig(frames=str(clip), fps=5, max_frames=70)) as source:
        assert (source.length, source.expected_length) == (70, 10)


@pytest.mark.parametrize(
    "config",
    [
        {"frames": "ten"},
        {"frames": "ten", "stride": 3},
        {"frames": "ten", "max_frames": 6},
        {"frames": "clip"},
        {"frames": "clip", "stride": 4},
        {"frames": "clip", "fps": 3.0, "start": 0.3, "max_frames": 4},
    ],
    ids=str,
)
def test_resumed_frames_equal_the_uninterrupted_ones(ten, clip, config):
    config = config | {"frames": str({"ten": ten, "clip": clip}[config["frames"]])}
    whole = frames_of(**config)
    for done in range(1, len(whole) + 1):
        with open_source(SourceConfig(size=28, **config)) as source:
            rest = list(source.frames(start=whole[done - 1].index + 1))
        assert [frame.index for frame in rest] == [frame.index for frame in whole[done:]]
        for again, frame in zip(rest, whole[done:], strict=True):
            np.testing.assert_array_equal(again.image, frame.image)


def test_resuming_remembers_size_and_skipped_frames(tmp_path):
    folder = make_folder(tmp_path / "mixed", 5, size=(28, 14))
    (folder / "0.png").write_bytes(b"damaged")
    Image.new("RGB", (28, 28)).save(folder / "3.png")
    (folder / "4.png").write_bytes(b"damaged")
    whole = frames_of(frames=str(folder), on_error="skip", max_frames=4)
    assert [frame.index for frame in whole] == [1, 2, 3]
    with open_source(SourceConfig(frames=str(folder), size=28, on_error="skip", max_frames=4)) as source:
        (rest,) = source.frames(start=3)
    assert rest.index == 3 and rest.image.shape == (14, 28, 3)
    np.testing.assert_array_equal(rest.image, whole[2].image)


def test_resuming_reads_nothing_twice_but_the_first(ten, monkeypatch):
    read = []
    from ivggt_jax.sources import folder

    genuine = folder.read_picture
    monkeypatch.setattr(folder, "read_picture", lambda path, *rest: read.append(path.name) or genuine(path, *rest))
    with open_source(SourceConfig(frames=str(ten), size=28)) as source:
        assert len(list(source.frames(start=8))) == 2
    assert read == ["0.png", "8.png", "9.png"]


def test_another_size_is_fitted_to_the_first_with_one_warning(tmp_path, caplog):
    folder = make_folder(tmp_path / "mixed", 5, size=(56, 28))
    for number in (2, 4):
        Image.new("RGB", (28, 56), (0, 0, 0)).save(folder / f"{number}.png")
    Image.new("RGB", (112, 56), (0, 0, 0)).save(folder / "3.png")  # another size, the same shape: no need to warn
    with caplog.at_level(logging.WARNING), open_source(SourceConfig(frames=str(folder), size=28)) as source:
        frames = list(source)
    assert {frame.image.shape for frame in frames} == {(14, 28, 3)}
    assert [record.getMessage() for record in caplog.records] == [
        "2.png becomes 28×28 pixels, the first frame 28×14: it and others like it are fitted to that on white"
    ]
    assert frames[1].mask is None and frames[3].mask is None
    np.testing.assert_array_equal(frames[2].mask, np.tile((np.arange(28) >= 10) & (np.arange(28) < 17), (14, 1)))
    assert (frames[2].image[~frames[2].mask] == 255).all()


def test_stops_at_an_unreadable_frame(ten):
    (ten / "4.png").write_bytes((ten / "4.png").read_bytes()[:50])
    done = []
    with pytest.raises(SourceError, match=r"4\.png: is damaged or truncated .*; --on-error skip goes on without it"):
        done.extend(open_source(SourceConfig(frames=str(ten), size=28)))
    assert [frame.index for frame in done] == [0, 1, 2, 3]


def test_skips_counts_and_names_unreadable_frames(ten, caplog):
    for number in (0, 4, 9):
        (ten / f"{number}.png").write_bytes(b"damaged")
    Image.new("RGB", (2000, 1)).save(ten / "5.png")
    with (
        caplog.at_level(logging.WARNING),
        open_source(SourceConfig(frames=str(ten), size=28, on_error="skip")) as source,
    ):
        assert [frame.index for frame in source] == [1, 2, 3, 6, 7, 8]
        assert source.skipped == 4
    assert len(caplog.records) == 4
    for name, problem in zip(("0.png", "4.png", "5.png", "9.png"), source.skipped_names, strict=True):
        assert name in problem
    assert "longer than 32:1" in source.skipped_names[2]


def test_names_of_skipped_frames_are_bounded(tmp_path, caplog):
    folder = make_folder(tmp_path / "many", 1)
    for number in range(1, 40):
        (folder / f"{number}.png").write_bytes(b"damaged")
    with open_source(SourceConfig(frames=str(folder), size=28, on_error="skip")) as source:
        assert len(list(source)) == 1
    assert (source.skipped, len(source.skipped_names), len(caplog.records)) == (39, 20, 21)


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"damaged")
    (tmp_path / "b.png").write_bytes(b"damaged")
    with pytest.raises(SourceError, match=r"none of its 2 frames can be read; the first: .*a\.png: is not an image"):
        frames_of(frames=str(tmp_path), on_error="skip")


def test_no_paths_on_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(SourceError, match="-: there are no frames"):
        frames_of(frames="-")


def test_masks(ten, clip, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for stem in [str(number) for number in range(10)] + [f"{number:06d}" for number in range(20)]:
        size = (28, 28) if len(stem) == 1 else (64, 48)
        mask = Image.new("L", size, 0)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        mask.save(masks / f"{stem}.png")
    for source in (ten, clip):
        for frame in frames_of(frames=str(source), masks=masks):
            assert frame.mask.dtype == bool and frame.mask.shape == frame.image.shape[:2]
            assert frame.mask[:, :14].all() and not frame.mask[:, 14:].any()
    (masks / "6.png").unlink()
    with pytest.raises(SourceError, match=r"6\.png: has no mask .*masks/6\.png"):
        frames_of(frames=str(ten), masks=masks)
    Image.new("L", (5, 8)).save(masks / "6.png")
    with pytest.raises(SourceError, match=r"6\.png: the mask has 5×8 pixels, its image 28×28"):
        frames_of(frames=str(ten), masks=masks)


def test_no_folder_of_masks(ten, tmp_path):
    with pytest.raises(SourceError, match="no such folder of masks"):
        open_source(SourceConfig(frames=str(ten), masks=tmp_path / "none"))


def test_standard_input_is_not_read_ahead(ten, monkeypatch):
    stream = io.StringIO("".join(f"{ten / str(number)}.png\n" for number in range(10)))
    monkeypatch.setattr(sys, "stdin", stream)
    with open_source(SourceConfig(frames="-", size=28)) as source:
        assert source.length is None
        assert next(iter(source)).index == 0
        assert len(stream.read().splitlines()) == 9


def test_no_thread_is_left(ten):
    before = set(threading.enumerate())
    with open_source(SourceConfig(frames=str(ten), size=28)) as source:
        for frame in source:
            if frame.index == 2:
                break
    del frame
    assert set(threading.enumerate()) <= before


def test_memory_does_not_grow(tmp_path):
    """Peak memory over 60 frames of 140 × 140 (58 kB each) stays below 20 of them, over 600 as well."""
    path = tmp_path / "a.png"
    Image.new("RGB", (140, 140)).save(path)
    for count in (60, 600):
        (tmp_path / "list.txt").write_text("a.png\n" * count)
        with open_source(SourceConfig(frames=str(tmp_path / "list.txt"), size=140)) as source:
            tracemalloc.start()
            for _ in source:
                pass
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 20 * 140 * 140 * 3


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("size", 500, "size 500 must be a multiple of 14; the nearest is 504"),
        ("size", 0, "size 0"),
        ("mode", "squeeze", "'crop' or 'pad'"),
        ("on_error", "ignore", "'stop' or 'skip'"),
        ("stride", 0, "stride must be at least 1"),
        ("max_frames", 0, "max_frames must be at least 1"),
        ("fps", 0.0, "fps must be positive"),
        ("fps", float("nan"), "fps must be positive"),
        ("start", -1.0, "start must be 0 or more"),
        ("end", 0.0, "must come after start"),
    ],
)
def test_fields_out_of_range(field, value, words):
    with pytest.raises(SourceError, match=words):
        SourceConfig(frames="x", **{field: value})


def test_fields_that_contradict(ten):
    with pytest.raises(SourceError, match="give one of them"):
        SourceConfig(frames="x", fps=5, stride=2)
    for field in ("fps", "start", "end"):
        with pytest.raises(SourceError, match="are for video files"):
            open_source(SourceConfig(frames=str(ten), **{field: 2.0}))


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ("", "frames is empty"),
        ("~nobody-of-that-name/video.mp4", "there is no such file or folder"),
        ("n" * 5000, "cannot be opened"),
        ("n" * 300 + ".png", "cannot be opened"),
    ],
    ids=["empty", "nobody", "long path", "long name"],
)
def test_names_that_name_nothing_are_one_line(frames: str, words: str) -> None:
    """An empty one is a shell variable that was never set, and not the working directory."""
    with pytest.raises(SourceError, match=words) as failure:
        open_source(SourceConfig(frames=frames))
    assert "\n" not in str(failure.value)
