import itertools
import math
import struct

import av
import numpy as np
import pytest
from sample_video import HEIGHT, WIDTH, number_of, picture, write_video

from ivggt_jax.sources import SourceConfig, SourceError, open_source, video
from ivggt_jax.sources.misnamed import misnamed
from ivggt_jax.sources.video import VideoReader

RATE = 10
COUNT = 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """24 frames at 10 a second, a key frame every 5: seeking and reordering are both needed."""
    folder = tmp_path_factory.mktemp("video")
    return write_video(folder / "clip.mp4", COUNT, RATE, codec_options={"g": "5", "bf": "2"})


def shown(reader):
    """Index and shown number of every frame of a reader."""
    return [(raw.index, number_of(np.asarray(raw.read().image))) for raw in reader.raw_frames()]


def test_frames_come_in_order_with_their_times(clip):
    found = list(VideoReader(clip).raw_frames())
    assert [raw.index for raw in found] == list(range(COUNT))
    assert [raw.name for raw in found[:2]] == ["000000", "000001"]
    np.testing.assert_allclose([raw.timestamp for raw in found], np.arange(COUNT) / RATE, atol=1e-6)


def test_pixels(clip):
    raw = next(VideoReader(clip).raw_frames())
    image = np.asarray(raw.read().image)
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    inner = np.abs(image.astype(int) - picture(0))[4:20, 4:28]
    assert inner.max() <= 6  # lossy; away from the edge of the red quarter


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi", "a.webm", "a.h264"])
def test_containers(tmp_path, name):
    codec = {"a.avi": "mpeg4", "a.webm": "libvpx-vp9"}.get(name, "libx264")
    reader = VideoReader(write_video(tmp_path / name, 6, codec=codec))
    assert shown(reader) == [(number, number) for number in range(6)]


def test_a_raw_stream_gets_times_from_its_rate(tmp_path):
    path = write_video(tmp_path / "a.h264", 6)
    times = [raw.timestamp for raw in VideoReader(path).raw_frames()]
    steps = np.diff(times)
    assert times[0] == 0 and steps.min() > 0 and steps.max() == pytest.approx(steps.min())


def test_times_that_do_not_start_at_zero_are_kept(tmp_path):
    """An MPEG transport stream starts late; --start and --end count from its first frame all the same."""
    path = write_video(tmp_path / "a.ts", COUNT, RATE)
    times = [raw.timestamp for raw in VideoReader(path).raw_frames()]
    assert times[0] > 0.1
    part = [raw.timestamp for raw in VideoReader(path, start=0.5, end=1.0).raw_frames()]
    assert part == times[5:11]


def test_the_expected_length_counts_from_the_first_frame(tmp_path):
    """Matroska gives the time of the end for the duration."""
    path = write_video(tmp_path / "a.mkv", COUNT, RATE, first=50)
    assert next(VideoReader(path).raw_frames()).timestamp == 5
    assert VideoReader(path).expected_length == COUNT


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.ts", "a.avi"])
@pytest.mark.parametrize("silence", [0.5, 4.0])
def test_the_expected_length_is_that_of_the_pictures(tmp_path, name, silence):
    """Sound may end earlier or later."""
    path = write_video(tmp_path / name, COUNT, RATE, silence=silence)
    with av.open(str(path)) as container:
        assert len(container.streams.audio) == 1
    assert VideoReader(path).expected_length == COUNT


def test_the_rate_of_a_short_stream_is_read_from_its_frames(tmp_path):
    """FFmpeg says none for MPEG-TS with few frames."""
    reader = VideoReader(write_video(tmp_path / "a.ts", 15, 5, codec="mpeg4", silence=3.0))
    assert (reader.rate, reader.expected_length) == (5, 15)


def test_times_rise_where_the_container_knows_no_b_frames(tmp_path):
    path = write_video(tmp_path / "a.avi", COUNT, RATE, codec_options={"bf": "2"})
    with av.open(str(path)) as container:
        assert min(np.diff([frame.time for frame in container.decode(video=0)])) < 0
    assert min(np.diff([raw.timestamp for raw in VideoReader(path).raw_frames()])) > 0


@pytest.mark.parametrize("stride", [2, 5])
def test_stride(clip, stride):
    reader = VideoReader(clip, stride=stride)
    assert shown(reader) == [(number, number) for number in range(0, COUNT, stride)]
    assert reader.expected_length == math.ceil(COUNT / stride)


@pytest.mark.parametrize("stride", [2, 3, 7])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "5", "bf": "2"}),
        ("libx265", {"x265-params": "log-level=none:pools=none:frame-threads=1"}),
        ("libvpx-vp9", {}),
        ("mpeg4", {"bf": "2"}),
        ("ffv1", {}),
    ],
)
def test_what_a_stride_passes_over_is_not_converted(tmp_path, monkeypatch, codec, options, stride):
    """The frames are those of the whole video, to the byte; of the others none becomes a picture."""
    path = write_video(tmp_path / "a.mkv", COUNT, RATE, codec=codec, codec_options=options)
    whole = {raw.index: raw.read().image.tobytes() for raw in VideoReader(path).raw_frames()}
    converted = []
    to_picture = video.to_picture
    monkeypatch.setattr(video, "to_picture", lambda *given: converted.append(1) or to_picture(*given))
    found = {raw.index: raw.read().image.tobytes() for raw in VideoReader(path, stride=stride).raw_frames()}
    assert found == {index: whole[index] for index in range(0, COUNT, stride)}
    assert len(whole) == COUNT and len(converted) == len(found)


@pytest.mark.parametrize(("fps", "expected"), [(5, range(0, COUNT, 2)), (4, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23])])
def test_fps_takes_the_first_frame_after_each_tick(clip, fps, expected):
    reader = VideoReader(clip, fps=fps)
    assert [index for index, _ in shown(reader)] == list(expected)
    assert reader.expected_length == len(expected)


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
@pytest.mark.parametrize(("rate", "fps", "step"), [(30, 30, 1), (30, 15, 2), (24, 24, 1), (60, 20, 3)])
def test_fps_takes_equal_steps_from_containers_that_round_times(tmp_path, ending, rate, fps, step):
    """Matroska's times are in milliseconds: the second frame of 30 a second is at 0.033 s."""
    reader = VideoReader(write_video(tmp_path / f"a.{ending}", 60, rate), fps=fps)
    assert [raw.index for raw in reader.raw_frames()] == list(range(0, 60, step))
    assert reader.expected_length == 60 // step


def test_fps_above_the_videos_takes_every_frame_once_and_says_so(clip, caplog):
    reader = VideoReader(clip, fps=1000)
    assert "has 10 frames per second, not 1000: all are taken" in caplog.text
    assert [index for index, _ in shown(reader)] == list(range(COUNT))
    assert reader.expected_length == COUNT


@pytest.mark.parametrize("start", [0.1, 0.7, 1.0, 1.34, 2.3])
def test_start(clip, start):
    first = math.ceil(start * RATE - 1e-6)
    reader = VideoReader(clip, start=start)
    assert shown(reader) == [(number - first, number) for number in range(first, COUNT)]
    assert abs(reader.expected_length - (COUNT - first)) <= 1


def test_end_is_included(clip):
    reader = VideoReader(clip, start=0.5, end=1.2)
    assert [number for _, number in shown(reader)] == list(range(5, 13))


def test_start_behind_the_end_of_the_video(clip):
    words = r"none between --start and --end; the video is 2\.4 s long"
    with open_source(SourceConfig(frames=str(clip), start=60)) as source, pytest.raises(SourceError, match=words):
        list(source)


@pytest.mark.parametrize("name", ["phone.txt", "phone.jpg", "phone.png"])
@pytest.mark.parametrize("options", [{}, {"fps": 5.0}])
def test_a_video_with_another_ending_is_called_one(clip, tmp_path, name, options):
    path = tmp_path / name
    path.write_bytes(clip.read_bytes())
    with pytest.raises(SourceError, match="is a video with the wrong ending: rename it, as to phone.mp4"):
        open_source(SourceConfig(frames=str(path), **options))
    if path.suffix != ".txt":
        with (
            open_source(SourceConfig(frames=str(tmp_path))) as source,
            pytest.raises(SourceError, match="wrong ending"),
        ):
            list(source)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 no picture", b"frames/1.png\n"])
def test_other_files_are_not_taken_for_videos(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert misnamed(tmp_path / "a.jpg") is None
    assert misnamed(tmp_path) is None


def test_seeking_skips_what_lies_before(tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mkv", 100, RATE, codec_options={"g": "10"})
    decoded = []
    genuine = video.decode
    monkeypatch.setattr(video, "decode", lambda *a: (decoded.append(d) or d for d in genuine(*a)))
    raw = next(VideoReader(path, start=8.0).raw_frames())
    assert raw.timestamp == pytest.approx(8.0)
    assert len(decoded) <= 30


@pytest.mark.parametrize(
    ("name", "codec"), [("a.ts", "libx264"), ("a.mpg", "mpeg2video"), ("a.flv", "libx264"), ("a.nut", "libx264")]
)
@pytest.mark.parametrize("between_key_frames", ["60", "250"])
def test_seeking_leaves_no_frame_out(tmp_path, name, codec, between_key_frames):
    """MPEG-TS and -PS are sought by time and not to a key frame."""
    path = write_video(tmp_path / name, 400, 25, codec, {"g": between_key_frames}, noisy=True)
    times = [raw.timestamp for raw in VideoReader(path).raw_frames()]
    for first in (13, 100, 375):
        found = [raw.timestamp for raw in VideoReader(path, start=first / 25, end=(first + 2) / 25).raw_frames()]
        assert found == pytest.approx(times[first : first + 3], abs=1e-3)


TURNS = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image, 1),
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", TURNS)
def test_orientation(tmp_path, clip, matrix):
    """The display matrix in a track header (`tkhd`) turns and mirrors as the MP4 standard says."""
    data = bytearray(clip.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    stored = np.asarray(next(VideoReader(clip).raw_frames()).read().image)
    turned = np.asarray(next(VideoReader(tmp_path / "turned.mp4").raw_frames()).read().image)
    np.testing.assert_array_equal(turned, TURNS[matrix](stored))


def test_only_a_few_frames_are_decoded_ahead(clip, monkeypatch):
    decoded = []
    genuine = video.decode
    monkeypatch.setattr(video, "decode", lambda *a: (decoded.append(d) or d for d in genuine(*a)))
    with open_source(SourceConfig(frames=str(clip), size=28)) as source:
        frames = source.frames()
        next(frames)
        frames.close()
    assert len(decoded) <= 4


def test_not_a_video(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        VideoReader(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(SourceError, match=r"a\.mp4: is not a video"):
        VideoReader(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_text("a diary " * 1000)
    with pytest.raises(SourceError, match=r"b\.mp4: is not a video"):
        VideoReader(tmp_path / "b.mp4")


def test_sound_only(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        for packet in itertools.chain(stream.encode(sound), stream.encode()):
            container.mux(packet)
    with pytest.raises(SourceError, match="holds no video"):
        VideoReader(tmp_path / "a.mkv")


def test_a_playlist_is_not_followed(tmp_path):
    """A live playlist has no end; FFmpeg would read it again and again."""
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(SourceError, match=r"a\.mp4: is not a video"):
        VideoReader(tmp_path / "a.mp4")


def test_a_header_cut_off(tmp_path, clip):
    data = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: data.index(b"moov")])
    with pytest.raises(SourceError, match=r"cut\.mp4: is not a video"):
        VideoReader(tmp_path / "cut.mp4")


def test_an_unknown_codec(tmp_path, clip):
    (tmp_path / "odd.mp4").write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(SourceError, match=r"odd\.mp4: its header is damaged, or its codec unknown"):
        VideoReader(tmp_path / "odd.mp4")


@pytest.fixture(scope="module")
def truncated(tmp_path_factory):
    """A video whose header promises 24 frames; the file ends in the middle of one after some."""
    path = tmp_path_factory.mktemp("video") / "cut.mp4"
    write_video(path, COUNT, noisy=True, options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return path


def test_truncated_stops(truncated):
    frames = []
    with (
        open_source(SourceConfig(frames=str(truncated), size=28)) as source,
        pytest.raises(SourceError, match=r"cut\.mp4, frame \d+: is damaged or truncated .* --on-error skip"),
    ):
        frames.extend(frame.index for frame in source)
    assert frames == [] or frames == list(range(len(frames)))


def test_truncated_skips_and_goes_on(truncated):
    with open_source(SourceConfig(frames=str(truncated), size=28, on_error="skip")) as source:
        indices = [frame.index for frame in source]
    assert 8 <= len(indices) < COUNT
    assert indices == sorted(set(indices))
    assert source.skipped == len(source.skipped_names) >= 1


def test_damage_in_the_middle_is_the_same_each_time(tmp_path):
    path = write_video(tmp_path / "a.mkv", COUNT, noisy=True, codec_options={"g": "4"})
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(0)
    for place in random.integers(len(data) // 4, len(data), 40):
        data[place] = random.integers(256)
    path.write_bytes(data)
    runs = []
    for _ in range(6):
        with open_source(SourceConfig(frames=str(path), size=28, on_error="skip")) as source:
            runs.append([(frame.index, frame.image.tobytes()) for frame in source])
        assert source.skipped > 0
    assert all(run == runs[0] for run in runs)
    assert len(runs[0]) >= 4


def test_frames_that_claim_to_be_huge_are_refused(clip, monkeypatch):
    monkeypatch.setattr(video, "LARGEST_IMAGE", 1000)
    with open_source(SourceConfig(frames=str(clip), on_error="skip")) as source, pytest.raises(SourceError):
        list(source)
