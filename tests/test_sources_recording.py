"""Robots' recordings of every kind, written with rosbags: what they hold comes out, with its stamps, and what is wrong is said."""

import io

import numpy as np
import pytest
from PIL import Image

from ivggt_jax.sources import SourceConfig, SourceError, open_source

typesys = pytest.importorskip("rosbags.typesys")
from rosbags.rosbag1 import Writer as Writer1  # noqa: E402
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin  # noqa: E402
from rosbags.rosbag2 import Writer as Writer2  # noqa: E402

SIDE = 28
KINDS = ("ros1", "sqlite", "mcap")
RECORDED = 1_700_000_100_000_000_000
"""Nanoseconds at which the first message was recorded, a while after its stamp."""
STAMP = 1_700_000_000
COLOURS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(SIDE), k * np.arange(SIDE)) * 2 for k in (1, 2, 3)], -1).astype(np.uint8)


def image(pixels, encoding, step=None, big=0, stamp=True):
    """An Image of a topic, as keywords; rows are padded with 7 to `step` bytes."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, (step or rows.shape[1]) - rows.shape[1])), constant_values=7)
    shape = {"height": pixels.shape[0], "width": pixels.shape[1]}
    return "Image", {
        **shape, "encoding": encoding, "is_bigendian": big, "step": rows.shape[1], "data": rows.ravel(), "stamp": stamp,
    }  # fmt: skip


def compressed(pixels, name, text=None, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, name, **options)
    return "CompressedImage", {"format": text or name.lower(), "data": np.frombuffer(file.getvalue(), np.uint8)}


def write(folder, kind, topics, compression=None):
    """A bag of a kind with the messages of each topic, half a second apart, and one topic without pictures.

    A message's field `late` is by how many nanoseconds its stamp is.
    """
    store = typesys.get_typestore(typesys.Stores.ROS1_NOETIC if kind == "ros1" else typesys.Stores.ROS2_HUMBLE)
    extra = {"seq": 0} if kind == "ros1" else {}
    time = store.types["builtin_interfaces/msg/Time"]
    header, text = (store.types[f"std_msgs/msg/{name}"] for name in ("Header", "String"))
    if kind == "ros1":
        path, writer = folder / "a.bag", Writer1(folder / "a.bag")
    else:
        path = folder / "bag"
        writer = Writer2(
            path, version=9, storage_plugin=StoragePlugin.SQLITE3 if kind == "sqlite" else StoragePlugin.MCAP
        )
    if compression is not None:
        writer.set_compression(*compression)
    pack = store.serialize_ros1 if kind == "ros1" else store.serialize_cdr
    with writer:
        talk = writer.add_connection("/talk", "std_msgs/msg/String", typestore=store)
        writer.write(talk, RECORDED, pack(text("hello"), talk.msgtype))
        for topic, messages in topics.items():
            connection = writer.add_connection(topic, f"sensor_msgs/msg/{messages[0][0]}", typestore=store)
            for number, (_, fields) in enumerate(messages):
                fields = dict(fields)
                late = fields.pop("late", 0)
                seconds, rest = divmod(STAMP * 1_000_000_000 + 500_000_000 * number + late, 1_000_000_000)
                stamp = time(seconds, rest) if fields.pop("stamp", True) else time(0, 0)
                message = store.types[connection.msgtype](header=header(stamp=stamp, frame_id="c", **extra), **fields)
                writer.write(connection, RECORDED + 500_000_000 * number, pack(message, connection.msgtype))
    return path


def frames_of(path, **options):
    with open_source(SourceConfig(frames=str(path), size=SIDE, **options)) as source:
        return list(source)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_of_each_kind(tmp_path, kind):
    shades = [image(np.full((SIDE, SIDE, 3), number, np.uint8), "rgb8") for number in range(5)]
    path = write(tmp_path, kind, {"/camera/image_raw": shades})
    for place in (path, *path.glob("*.mcap"), *path.glob("*.db3")):
        found = frames_of(place)
        assert [int(frame.image[0, 0, 0]) for frame in found] == [0, 1, 2, 3, 4]
        assert [frame.timestamp for frame in found] == [STAMP + number / 2 for number in range(5)]
        assert [(frame.index, frame.name) for frame in found] == [(number, f"{number:06d}") for number in range(5)]
    with open_source(SourceConfig(frames=str(path), size=SIDE, stride=2)) as source:
        assert source.length == source.expected_length == 3
        assert [frame.index for frame in source] == [0, 2, 4]
        assert [frame.index for frame in source.frames(start=3)] == [4]


@pytest.mark.parametrize(
    ("kind", "compression"),
    [
        *(("ros1", (packing,)) for packing in Writer1.CompressionFormat),
        *(("sqlite", (mode, CompressionFormat.ZSTD)) for mode in (CompressionMode.FILE, CompressionMode.MESSAGE)),
        ("mcap", (CompressionMode.STORAGE, CompressionFormat.ZSTD)),
    ],
)
def test_compressed_bags(tmp_path, kind, compression):
    path = write(tmp_path, kind, {"/camera": [image(COLOURS, "rgb8")] * 2}, compression)
    assert [np.array_equal(frame.image, COLOURS) for frame in frames_of(path)] == [True, True]


@pytest.mark.parametrize(
    ("message", "expected", "tolerance"),
    [
        (image(COLOURS, "rgb8"), COLOURS, 0),
        (image(COLOURS, "rgb8", step=SIDE * 3 + 9), COLOURS, 0),
        (image(COLOURS[..., ::-1], "bgr8"), COLOURS, 0),
        (image(COLOURS[..., ::-1], "8UC3"), COLOURS, 0),
        (image(np.dstack((COLOURS, COLOURS[..., :1])), "rgba8"), COLOURS, 0),
        (image(np.dstack((COLOURS[..., ::-1], 0 * COLOURS[..., :1])), "bgra8"), COLOURS, 0),
        (image(COLOURS[..., 0], "mono8"), COLOURS[..., :1], 0),
        (image(COLOURS[..., 0].astype("<u2") * 257, "mono16"), COLOURS[..., :1], 0),
        (image(COLOURS[..., 0].astype(">u2") * 257, "16UC1", big=1, step=2 * SIDE + 2), COLOURS[..., :1], 0),
        (compressed(COLOURS, "PNG"), COLOURS, 0),
        (compressed(SMOOTH // 8 * 8, "JPEG", "rgb8; jpeg compressed bgr8", quality=100, subsampling=0), SMOOTH // 8 * 8, 8),
    ],
    ids=lambda value: value[1].get("encoding") or value[1]["format"] if isinstance(value, tuple) else "",
)  # fmt: skip
@pytest.mark.parametrize("kind", ["ros1", "mcap"])
def test_encodings(tmp_path, kind, message, expected, tolerance):
    (frame,) = frames_of(write(tmp_path, kind, {"/camera": [message]}))
    difference = np.abs(frame.image.astype(int) - expected)
    assert difference.max() <= tolerance and frame.mask is None


@pytest.mark.parametrize(
    ("order", "first"),
    [("rggb", (0, 1, 1, 2)), ("bggr", (2, 1, 1, 0)), ("gbrg", (1, 2, 0, 1)), ("grbg", (1, 0, 2, 1))],
)
def test_bayer_patterns_come_out_in_colour(tmp_path, order, first):
    colour = np.array([200, 120, 40], np.uint8)
    mosaic = np.zeros((SIDE, SIDE), np.uint8)
    for place, channel in enumerate(first):
        mosaic[place // 2 :: 2, place % 2 :: 2] = colour[channel]
    (frame,) = frames_of(write(tmp_path, "mcap", {"/camera": [image(mosaic, f"bayer_{order}8")]}))
    assert np.abs(frame.image.astype(int) - colour).max() <= 1


@pytest.mark.parametrize(("encoding", "places"), [("yuv422_yuy2", (0, 1, 2, 3)), ("yuv422", (1, 0, 3, 2))])
def test_what_webcams_send(tmp_path, encoding, places):
    """A constant red, by BT.601 in limited range: Y 81, Cb 90, Cr 240."""
    pair = np.zeros(4, np.uint8)
    pair[list(places)] = (81, 90, 81, 240)
    pixels = np.tile(pair, (SIDE, SIDE // 2)).reshape(SIDE, SIDE, 2)
    (frame,) = frames_of(write(tmp_path, "mcap", {"/camera": [image(pixels, encoding)]}))
    assert np.abs(frame.image.astype(int) - [255, 0, 0]).max() <= 4


def test_thermal_counts_are_stretched(tmp_path):
    counts = np.linspace(21_000, 23_500, SIDE * SIDE).reshape(SIDE, SIDE).astype("<u2")
    found = frames_of(write(tmp_path, "ros1", {"/thermal": [image(counts, "mono16")] * 3}))
    assert all(190 < int(frame.image.max()) - int(frame.image.min()) < 230 for frame in found)
    assert len({frame.levels for frame in found}) == 1


def test_without_a_stamp_the_time_of_recording_counts(tmp_path):
    found = frames_of(write(tmp_path, "sqlite", {"/camera": [image(COLOURS, "rgb8", stamp=False)] * 2}))
    assert [frame.timestamp for frame in found] == [RECORDED / 1e9, RECORDED / 1e9 + 0.5]


@pytest.mark.parametrize("kind", KINDS)
def test_of_several_topics_one_is_to_be_named(tmp_path, kind):
    path = write(tmp_path, kind, {"/left": [image(COLOURS, "rgb8")] * 2, "/right/small": [compressed(SMOOTH, "PNG")]})
    with pytest.raises(
        SourceError, match=r"several topics; name one with --topic: /left \(2 frames\), /right/small \(1"
    ):
        frames_of(path)
    with pytest.raises(SourceError, match=r"no pictures of a topic /talk; there is /left \(2 frames\)"):
        frames_of(path, topic="/talk")
    np.testing.assert_array_equal(frames_of(path, topic="/right/small")[0].image, SMOOTH)
    assert len(frames_of(path, topic="/left")) == 2


def test_a_damaged_message_is_named_and_can_be_skipped(tmp_path):
    good, bad = compressed(COLOURS, "PNG"), compressed(COLOURS, "PNG")
    bad[1]["data"] = bad[1]["data"][:200]
    short = ("Image", {**image(COLOURS, "rgb8")[1], "data": np.zeros(5, np.uint8)})
    path = write(tmp_path, "mcap", {"/camera": [good, bad, good]})
    with pytest.raises(SourceError, match="bag, /camera, frame 1: is damaged or truncated"):
        frames_of(path)
    assert [frame.index for frame in frames_of(path, on_error="skip")] == [0, 2]
    (tmp_path / "short").mkdir()
    with pytest.raises(SourceError, match="frame 0: is damaged or truncated"):
        frames_of(write(tmp_path / "short", "ros1", {"/camera": [short]}))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (image(np.zeros((SIDE, SIDE), np.float32), "32FC1"), "its encoding 32FC1 is none of rgb8, bgr8"),
        (compressed(COLOURS, "PNG", "16UC1; compressedDepth png"), r"is a depth map \(compressedDepth\)"),
        (
            ("CompressedImage", {"format": "h264", "data": np.frombuffer(b"\0\0\0\1g", np.uint8)}),
            "is no picture, though its format says 'h264'",
        ),
    ],
)
def test_what_is_not_a_picture_is_refused(tmp_path, message, words):
    with pytest.raises(SourceError, match=words):
        frames_of(write(tmp_path, "mcap", {"/camera": [message]}))


@pytest.mark.parametrize("name", ["a.bag", "a.mcap", "a.db3", "bag"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 99])
def test_what_is_no_recording_is_said(tmp_path, name, content):
    path = tmp_path / name
    if name == "bag":
        path.mkdir()
        (path / "metadata.yaml").write_bytes(content)
        (path / "a.db3").write_bytes(content)
    else:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=f"{name}: is not a recording that can be read"):
        frames_of(path)


def test_a_folder_of_pictures_may_describe_itself(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    (tmp_path / "metadata.yaml").write_text("camera: mine\n")
    assert [frame.name for frame in frames_of(tmp_path)] == ["a.png"]


def test_a_recording_without_pictures_is_said(tmp_path):
    with pytest.raises(SourceError, match="holds no pictures: no topic is a sensor_msgs/Image or CompressedImage"):
        frames_of(write(tmp_path, "mcap", {}))


def test_a_recording_that_breaks_off_gives_what_comes_before(tmp_path, monkeypatch):
    path = write(tmp_path, "mcap", {"/camera": [image(COLOURS, "rgb8")] * 3})
    from rosbags.highlevel import AnyReader

    whole = AnyReader.messages

    def broken(*arguments, **keywords):
        for number, message in enumerate(whole(*arguments, **keywords)):
            if number == 2:
                raise OSError("the disk is gone")
            yield message

    monkeypatch.setattr(AnyReader, "messages", broken)
    with pytest.raises(SourceError, match="frame 2: the recording cannot be read further"):
        frames_of(path)
    assert [frame.index for frame in frames_of(path, on_error="skip")] == [0, 1]


def test_a_recording_that_broke_off_while_it_was_made(tmp_path):
    """Its message says how to repair it."""
    path = write(tmp_path, "mcap", {"/camera": [image(COLOURS, "rgb8")] * 3})
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.suffix == ".mcap"]
    for file in files:
        file.write_bytes(file.read_bytes()[: 3 * file.stat().st_size // 4])
    with pytest.raises(SourceError, match=r"repaired first: `mcap recover`"):
        frames_of(path)


def test_options_that_do_not_fit(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    with pytest.raises(SourceError, match="--topic is for recordings"):
        frames_of(tmp_path / "a.png", topic="/camera")
    path = write(tmp_path, "mcap", {"/camera": [image(COLOURS, "rgb8")]})
    with pytest.raises(SourceError, match="--fps, --start and --end are for video files"):
        frames_of(path, fps=5)


def test_recordings_need_their_extra(tmp_path, monkeypatch):
    path = write(tmp_path, "mcap", {"/camera": [image(COLOURS, "rgb8")]})
    monkeypatch.setitem(__import__("sys").modules, "rosbags.highlevel", None)
    with pytest.raises(SourceError, match=r"recordings need rosbags: pip install 'ivggt_jax\[ros\]'"):
        frames_of(path)
