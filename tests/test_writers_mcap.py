"""The MCAP recording, read back with the library of its format; its messages with Protobuf, by the schemas in the file."""

import io
import resource
import shutil
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from writer_scene import HEIGHT, WIDTH, camera, result

from ivggt_jax.writers import ExportOptions, WriteError, Writers
from ivggt_jax.writers.files import ResumeError
from ivggt_jax.writers.mcap import TOPICS

reader = pytest.importorskip("mcap.reader")
stream_reader = pytest.importorskip("mcap.stream_reader")
records = pytest.importorskip("mcap.records")
pytest.importorskip("foxglove")
protobuf = pytest.importorskip("google.protobuf")
mcap_file = pytest.importorskip("ivggt_jax.writers.mcap_file")
MAGIC, McapFile = mcap_file.MAGIC, mcap_file.McapFile

FRAMES = 3
OPTIONS = ExportOptions(confidence=50)


def written(out, left=None, **changes):
    """The recording of three frames; `left` gets what a kill after the last would leave."""
    writers = Writers(["mcap"], out, OPTIONS)
    for index in range(FRAMES):
        item = result(index, **changes)
        writers.write(replace(item, frame=replace(item.frame, timestamp=1_700_000_000.25 + index)))
    if left:
        shutil.copy(out / "recording.mcap", left)
    writers.close()
    return out / "recording.mcap"


def classes(schemas):
    """Protobuf's message classes by the names of the schemas in a file."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    found = {}
    for schema in schemas:
        assert schema.encoding == "protobuf"
        files, pool = descriptor_pb2.FileDescriptorSet.FromString(schema.data), descriptor_pool.DescriptorPool()
        for file in files.file:
            pool.Add(file)
        found[schema.name] = message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name))
    return found


def test_what_a_reader_with_an_index_finds(tmp_path):
    with written(tmp_path).open("rb") as file:
        recording = reader.make_reader(file, validate_crcs=True)
        summary = recording.get_summary()
        assert {channel.topic for channel in summary.channels.values()} == set(TOPICS)
        assert summary.statistics.message_count == FRAMES * len(TOPICS)
        assert len(summary.chunk_indexes) == summary.statistics.chunk_count == FRAMES
        kinds = classes(summary.schemas.values())
        messages = {topic: [] for topic in TOPICS}
        for schema, channel, message in recording.iter_messages():
            content = kinds[schema.name].FromString(message.data)
            index = len(messages[channel.topic])
            assert message.log_time == (1_700_000_000 + index) * 10**9 + 250_000_000
            assert (content.timestamp.seconds, content.timestamp.nanos) == (1_700_000_000 + index, 250_000_000)
            messages[channel.topic].append(content)
        only = [message.sequence for _, _, message in recording.iter_messages(topics=["/points"], reverse=True)]
    assert only == [2, 1, 0]
    for index in range(FRAMES):
        item = result(index)
        transform, pose = messages["/tf"][index], messages["/camera/pose"][index]
        assert (transform.parent_frame_id, transform.child_frame_id, pose.frame_id) == ("world", "camera", "world")
        for place, turn in (
            (transform.translation, transform.rotation),
            (pose.pose.position, pose.pose.orientation),
        ):
            np.testing.assert_allclose((place.x, place.y, place.z), camera(index)[:, 3], atol=1e-12)
            rotation = Rotation.from_quat((turn.x, turn.y, turn.z, turn.w)).as_matrix()
            np.testing.assert_allclose(rotation, camera(index)[:, :3], atol=1e-12)
        calibration = messages["/camera/calibration"][index]
        assert (calibration.width, calibration.height) == (WIDTH, HEIGHT)
        np.testing.assert_allclose(np.reshape(calibration.K, (3, 3)), item.intrinsics, rtol=1e-12)
        np.testing.assert_allclose(np.reshape(calibration.P, (3, 4))[:, :3], item.intrinsics, rtol=1e-12)
        picture = np.asarray(Image.open(io.BytesIO(messages["/camera/image"][index].data)))
        assert np.abs(picture.astype(int) - item.frame.image).mean() < 6
        cloud = messages["/points"][index]
        assert [(field.name, field.offset) for field in cloud.fields] == [
            *(("x", 0), ("y", 4), ("z", 8)),
            *(("red", 12), ("green", 13), ("blue", 14), ("alpha", 15)),
        ]
        keep = item.points_confidence >= np.median(item.points_confidence)
        vertices = np.frombuffer(cloud.data, [("xyz", "<f4", 3), ("rgb", "u1", 3), ("alpha", "u1")])
        np.testing.assert_array_equal(vertices["xyz"], item.points[keep])
        np.testing.assert_array_equal(vertices["rgb"], item.frame.image[keep])


def test_every_frame_is_there_before_the_next_and_after_a_kill(tmp_path):
    """Without its ending, as a kill leaves it, for a reader that streams."""
    written(tmp_path / "run", left=tmp_path)
    found = []
    with (tmp_path / "recording.mcap").open("rb") as file, pytest.raises(Exception, match="End of|end of|EndOfFile|^$"):
        for record in stream_reader.StreamReader(file, validate_crcs=True).records:
            found += [record.sequence] if isinstance(record, records.Message) else []
    assert found == [index for index in range(FRAMES) for _ in TOPICS]


def test_a_run_without_points_records_the_rest(tmp_path):
    path = written(tmp_path, depth=None, depth_confidence=None, points=None, points_confidence=None)
    with path.open("rb") as file:
        summary = reader.make_reader(file).get_summary()
    names = {summary.channels[number].topic for number in summary.statistics.channel_message_counts}
    assert names == set(TOPICS) - {"/points"}


def test_a_full_disk_leaves_whole_frames(tmp_path):
    """A limit of 300,000 bytes; a frame takes about 130,000."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writers = Writers(["mcap"], tmp_path, OPTIONS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"cannot write .*recording\.mcap.*Free space"):
            for index in range(5):
                writers.write(result(index))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writers.close()
    with (tmp_path / "recording.mcap").open("rb") as file:
        count = sum(1 for _ in reader.make_reader(file, validate_crcs=True).iter_messages(topics=["/tf"]))
    assert 1 <= count < 5


def test_the_recording_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "foxglove", None)
    with pytest.raises(ValueError, match=r"--export mcap needs .*pip install \"ivggt_jax\[ros\]\""):
        Writers(["mcap"], tmp_path, OPTIONS)


CHUNK = struct.pack("<QQQII", 0, 0, 0, 0, 2**31) + b"\xff" * 60
FOREIGN = {
    "empty": b"",
    "text": b"no recording but some text, and as long as one" * 9,
    "cut in a chunk": MAGIC + struct.pack("<BQ", 6, 100) + b"1234",
    "a chunk too short": MAGIC + struct.pack("<BQ", 6, 3) + b"123",
    "a record without end": MAGIC + struct.pack("<BQ", 1, 2**64 - 1),
    "a name without end": MAGIC + struct.pack("<BQ", 6, len(CHUNK)) + CHUNK[:-1],
    "a chunk alone, of nonsense": MAGIC + struct.pack("<BQ", 6, len(CHUNK)) + CHUNK,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_recording_is_not_gone_on_with(tmp_path, kind):
    path = tmp_path / "recording.mcap"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(ResumeError, match="finished frames"):
        McapFile(path, 2, [])
    assert path.read_bytes() == FOREIGN[kind]


@pytest.mark.parametrize(("seconds", "there"), [(-0.04, 0), (-1e9, 0), (1.7e12, 2**32 - 1), (0.9999999999, 1)])
def test_times_beyond_foxgloves_lie_at_their_end(tmp_path, seconds, there):
    """A video may begin before 0, and names may be times in a unit of their own."""
    writers = Writers(["mcap"], tmp_path, OPTIONS)
    item = result(0)
    writers.write(replace(item, frame=replace(item.frame, timestamp=seconds)))
    writers.close()
    with (tmp_path / "recording.mcap").open("rb") as file:
        times = {message.log_time for _, _, message in reader.make_reader(file).iter_messages()}
    assert times == {there * 10**9}
