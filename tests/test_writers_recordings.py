"""The video and the Rerun recording: readable after a kill, and after a resume with the frames of a whole run."""

import resource
import shutil
import subprocess
import warnings
from dataclasses import replace

import av
import numpy as np
import pytest
from writer_scene import HEIGHT, WIDTH, camera, result, tracked

from ivggt_jax.depth_colours import COLOURS, colour_depth, inverse_depth_range
from ivggt_jax.writers import ExportOptions, ResumeError, WriteError, Writers
from ivggt_jax.writers.rrd import _names_of_axes
from ivggt_jax.writers.trails import colour


def pictures(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def record(name, out, first, last, state=None, left=None, times=None) -> dict[str, np.ndarray]:
    """Writes frames first … last − 1; `left` gets what a kill after the last would leave. Returns the state by then."""
    writers = Writers([name], out, ExportOptions(), first, state)
    for index in range(first, last):
        item = tracked(index) if name == "rrd" else result(index)
        writers.write(item if times is None else replace(item, frame=replace(item.frame, timestamp=times[index])))
    state = {key: np.array(value) for key, value in writers.state().items()}
    if left is not None:
        shutil.copytree(out, left)
    writers.close()
    return state


def test_video_shows_the_frame_and_its_depth(tmp_path):
    record("video", tmp_path, 0, 5)
    shown = pictures(tmp_path / "video.mp4")
    assert len(shown) == 5
    for index, picture in enumerate(shown):
        item = result(index)
        assert picture.shape == (4 * HEIGHT, 4 * 2 * WIDTH, 3)  # 112 rows are enlarged to 448
        picture = picture.reshape(HEIGHT, 4, 2 * WIDTH, 4, 3).mean(axis=(1, 3))
        # Colours lose resolution in H.264, the mean grey value of 14×14 pixels does not.
        blocks = (picture[:, :WIDTH], item.frame.image)
        grey = [block.mean(axis=2).reshape(HEIGHT // 14, 14, WIDTH // 14, 14).mean(axis=(1, 3)) for block in blocks]
        np.testing.assert_allclose(*grey, atol=4)
        near = picture[:, WIDTH:][item.depth <= np.percentile(item.depth, 2)].mean(axis=0)
        far = picture[:, WIDTH:][item.depth >= np.percentile(item.depth, 98)].mean(axis=0)
        assert near[0] > near[2] + 50 and far[0] < 60


def test_a_video_keeps_its_sources_pace(tmp_path):
    """24 frames a second, then a pause of ten seconds, which is shown for one, and a time that comes twice; resumed on the way."""
    times = [5 + np.array((0, 1, 2, 3, 243, 244, 244)) / 24, [None] * 7]
    expected = [np.array((0, 1, 2, 3, 27, 28, 28.1)) / 24, np.arange(7) / 30]
    for name, stamps, shown in zip("ab", times, expected, strict=True):
        folder, killed = tmp_path / name, tmp_path / f"{name}_killed"
        state, left = record("video", folder, 0, 5, left=killed, times=stamps), killed
        record("video", left, 5, 7, state, times=stamps)
        with av.open(str(left / "video.mp4")) as container:
            found = [frame.time for frame in container.decode(video=0)]
        np.testing.assert_allclose(found, shown, atol=1e-5)


def test_a_video_shows_where_the_points_went(tmp_path):
    item = tracked(6)
    writers = Writers(["video"], tmp_path, ExportOptions())
    for index in range(7):
        writers.write(tracked(index))
    writers.close()
    picture = pictures(tmp_path / "video.mp4")[-1]
    seen = item.visibility > 0
    assert 10 < seen.sum() < len(seen)
    for number in np.flatnonzero(seen):
        u, v = np.rint(4 * item.tracks[number] + 1.5).astype(int)
        found = picture[v, u].astype(int)
        # H.264 keeps colours at half the size; hues are told apart all the same.
        assert np.abs(found - colour(number)).max() < 90, number


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_resumed_video_has_all_frames(stop, tmp_path):
    killed = tmp_path / "killed"
    record("video", tmp_path / "whole", 0, 6)
    state = record("video", tmp_path / "run", 0, stop, left=killed)
    assert len(pictures(killed / "video.mp4") if stop > 1 else []) == stop - 1  # the newest is in the state
    record("video", killed, stop, 6, state)
    whole, resumed = pictures(tmp_path / "whole" / "video.mp4"), pictures(killed / "video.mp4")
    assert len(resumed) == 6
    for ours, theirs in zip(resumed, whole, strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 4
    assert [path.name for path in killed.iterdir()] == ["video.mp4"]


def test_a_video_with_fewer_frames_than_the_run_is_an_error(tmp_path):
    state = record("video", tmp_path, 0, 3)
    with pytest.raises(ResumeError, match="video.mp4 holds 3 finished frames, but .* 7"):
        Writers(["video"], tmp_path, ExportOptions(), 7, state)


def test_a_video_on_a_full_disk_is_one_error(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        writers = Writers(["video"], tmp_path, ExportOptions())
        with pytest.raises(WriteError, match=r"cannot write .*video.mp4"):
            for index in range(20):
                writers.write(result(index))
        writers.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_depth_colours_are_linear_in_inverse_depth():
    depth = np.array([[1.0, 2.0, 4.0, np.nan, np.inf, 0.5]])
    colours = colour_depth(depth, np.array((0.25, 1.0)))
    np.testing.assert_array_equal(colours[0, 0], COLOURS[-1])
    np.testing.assert_array_equal(colours[0, 2], COLOURS[0])
    np.testing.assert_array_equal(colours[0, 5], COLOURS[-1])
    for unknown in (3, 4):
        np.testing.assert_array_equal(colours[0, unknown], COLOURS[0])
    middle = np.array((COLOURS[1], COLOURS[2]))
    np.testing.assert_allclose(colours[0, 1], middle[0] + (5 / 3 - 1) * (middle[1] - middle[0]), atol=1)


def test_the_colours_range_follows_slowly():
    near, far = np.full((4, 4), 1.0), np.full((4, 4), 10.0)
    start = inverse_depth_range(far, None)
    np.testing.assert_allclose(start, (0.1, 0.1), atol=1e-5)
    assert inverse_depth_range(near, start)[1] == pytest.approx(0.1 + 0.05 * 0.9, abs=1e-4)
    np.testing.assert_array_equal(inverse_depth_range(np.full((4, 4), np.nan), start), start)


def test_recordings_hold_every_frame_and_go_on_after_a_resume(tmp_path):
    chunk = pytest.importorskip("rerun.chunk")
    killed = tmp_path / "killed"
    state = record("rrd", tmp_path / "run", 0, 3, left=killed)
    record("rrd", killed, 3, 5, state)
    assert sorted(path.name for path in killed.iterdir()) == ["recording-000003.rrd", "recording.rrd"]
    poses, cameras, entities, places, cloud, path = {}, [], set(), {}, {}, {}
    for file in sorted(killed.iterdir()):
        with warnings.catch_warnings(action="ignore"):  # that the part which was killed has no footer
            reader = chunk.RrdReader(file)
        for part in reader.stream().to_chunks():
            entities.add(part.entity_path)
            if part.entity_path in ("/world/points", "/world/camera/image/tracks", "/world/path"):
                columns = part.to_record_batch().to_pydict()
                for row, frame in enumerate(columns["frame"]):
                    if part.entity_path == "/world/points":
                        cloud[frame] = np.array(columns["Points3D:positions"][row])
                    elif part.entity_path == "/world/path":
                        path[frame] = np.array(columns["LineStrips3D:strips"][row])[0]
                    else:
                        numbers = columns["Points2D:keypoint_ids"][row]
                        places[frame] = dict(zip(numbers, columns["Points2D:positions"][row], strict=True))
            if part.entity_path == "/world/camera":
                batch = part.to_record_batch()
                for row in range(part.num_rows):
                    column = {name: batch.column(name)[row] for name in batch.schema.names}
                    poses[column["frame"].as_py()] = column["Transform3D:translation"].as_py()[0]
            elif part.entity_path == "/world/camera/image":
                batch = part.to_record_batch()
                if "Pinhole:image_from_camera" in batch.schema.names:
                    cameras += [row[0] for row in batch.column("Pinhole:image_from_camera").to_pylist()]
    assert {"/world/camera/image", "/world/camera/image/depth"} <= entities
    assert sorted(poses) == [0, 1, 2, 3, 4]
    for index, position in poses.items():
        np.testing.assert_allclose(position, camera(index)[:, 3], atol=1e-6)
    # By columns; Rerun counts pixels from the corner.
    expected = result(0).intrinsics + np.array(((0, 0, 0.5), (0, 0, 0.5), (0, 0, 0)))
    np.testing.assert_allclose([np.reshape(found, (3, 3)).T for found in cameras], [expected] * 5, rtol=1e-6)
    for frame, found in places.items():
        item = tracked(frame)
        assert sorted(found) == list(np.flatnonzero(item.visibility))
        np.testing.assert_allclose(list(found.values()), item.tracks[list(found)] + 0.5, atol=1e-4)
    assert sorted(cloud) == [0, 1, 2, 3, 4]
    for frame, points in cloud.items():
        assert len(points) == 4096 and set(map(tuple, points)) <= set(map(tuple, result(frame).points.reshape(-1, 3)))
    assert sorted(path) == [1, 2, 3, 4]
    for frame, line in path.items():
        np.testing.assert_allclose(line, [camera(frame - 1)[:, 3], camera(frame)[:, 3]], atol=1e-6)
    record("rrd", killed, 0, 1)
    assert [path.name for path in killed.iterdir()] == ["recording.rrd"]
    with pytest.raises(ResumeError, match="recording.rrd holds 0 finished frames"):
        Writers(["rrd"], tmp_path / "empty", ExportOptions(), 3, state)


@pytest.mark.parametrize(
    "world, letters",
    [
        (((1, 0, 0), (0, 1, 0), (0, 0, 1)), "RDF"),
        (((1, 0, 0), (0, 0, 1), (0, -1, 0)), "RFU"),  # z up
        (((1, 0, 0), (0, -1, 0), (0, 0, -1)), "RUB"),  # y up
        (((0, 0, 1), (1, 0, 0), (0, 1, 0)), "RBD"),  # z down, as aircraft have it
    ],
)
def test_rerun_is_told_which_way_is_up(world, letters):
    assert _names_of_axes(np.column_stack((world, (1, 2, 3)))) == letters


@pytest.mark.skipif(shutil.which("rerun") is None, reason="needs the Rerun SDK's program")
def test_reruns_own_check_passes(tmp_path):
    pytest.importorskip("rerun")  # the program may be another environment's
    record("rrd", tmp_path, 0, 3)
    found = subprocess.run(["rerun", "rrd", "verify", tmp_path / "recording.rrd"], capture_output=True, text=True)
    assert found.returncode == 0 and "1 file verified without error" in found.stderr


def test_recordings_need_their_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    with pytest.raises(ValueError, match=r"needs the Rerun SDK: pip install \"ivggt_jax\[rerun\]\""):
        Writers(["rrd"], tmp_path, ExportOptions())
