"""Depth images of a robot's recording beside its pictures: by time, in metres, and what is none."""

from pathlib import Path

import numpy as np
import pytest

from ivggt_jax.sources import SourceConfig, SourceError, open_source
from ivggt_jax.writers import write_run_json
from ivggt_jax.writers.decoded import Decoded, recorded_source

pytest.importorskip("rosbags")
from test_sources_recording import COLOURS, KINDS, SIDE, compressed, image, write

DEPTH = Path("/camera/depth")
RAMP = (1000 + 10 * np.arange(SIDE)[None] + 5 * np.arange(SIDE)[:, None]).astype(np.uint16)
COLOUR = {"/camera/color": [image(COLOURS, "rgb8")] * 4}


def late(message, milliseconds: float):
    kind, fields = message
    return kind, {**fields, "late": round(1e6 * milliseconds)}


def depths_of(path: Path, **options) -> list[np.ndarray]:
    with open_source(SourceConfig(frames=str(path), size=SIDE, depth=DEPTH, **options)) as source:
        return [frame.depth for frame in source]


@pytest.mark.parametrize("kind", KINDS)
def test_millimetres_and_metres_by_time(tmp_path: Path, kind: str) -> None:
    """Stamps 15 ms late are of the frame, 30 ms of none; the topic of depth is no topic of pictures; rows may be padded."""
    metres = RAMP.astype(np.float32) / 500
    metres[0, 0], metres[0, 1] = np.nan, np.inf
    topic = [
        late(image(RAMP, "16UC1", step=2 * SIDE + 6), 15),
        late(image(2 * RAMP, "16UC1", big=1), 30),
        image(metres, "32FC1"),
        late(image((4 * RAMP).astype(">u2"), "16UC1", big=1), 3),
    ]
    found = depths_of(write(tmp_path, kind, COLOUR | {str(DEPTH): topic}))
    np.testing.assert_allclose(found[0], RAMP / 1000, rtol=1e-6)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[2][1:], RAMP[1:] / 500, rtol=1e-6)
    assert np.isnan(found[2][0, :2]).all()
    np.testing.assert_allclose(found[3], 4 * RAMP / 1000, rtol=1e-6)


def test_a_scale_a_stride_and_a_second_pass(tmp_path: Path) -> None:
    topic = [image((number + 1) * RAMP, "16UC1") for number in range(4)]
    path = write(tmp_path, "sqlite", COLOUR | {str(DEPTH): topic})
    with open_source(SourceConfig(frames=str(path), size=SIDE, depth=DEPTH, depth_scale=5000, stride=3)) as source:
        for _ in range(2):
            np.testing.assert_allclose([frame.depth for frame in source], [RAMP / 5000, 4 * RAMP / 5000], rtol=1e-6)
        (later,) = source.frames(start=2)
        np.testing.assert_allclose(later.depth, 4 * RAMP / 5000, rtol=1e-6)


def test_depth_that_is_sparse_or_begins_late(tmp_path: Path) -> None:
    """One image, of the third frame, and one long before: the others have none."""
    topic = [late(image(RAMP, "16UC1"), -9000), late(image(RAMP, "16UC1"), 500)]
    found = depths_of(write(tmp_path, "mcap", COLOUR | {str(DEPTH): topic}))
    assert [bool(np.isfinite(depth).any()) for depth in found] == [False, False, True, False]


@pytest.mark.parametrize("frames_too", [False, True])
@pytest.mark.parametrize("milliseconds", [-1e6, 1e6])
@pytest.mark.parametrize("which", range(4))
def test_one_wrong_stamp_costs_one_depth(tmp_path: Path, which: int, milliseconds: float, frames_too: bool) -> None:
    """Of a depth image, or of a frame; by 1,000 seconds."""
    topics = {"/camera/color": [image(COLOURS, "rgb8")] * 4, str(DEPTH): [image(RAMP, "16UC1")] * 4}
    wrong = topics["/camera/color" if frames_too else str(DEPTH)]
    wrong[which] = late(wrong[which], milliseconds)
    found = depths_of(write(tmp_path, "mcap", topics))
    assert [bool(np.isfinite(depth).any()) for depth in found] == [number != which for number in range(4)]


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ([late(image(RAMP, "16UC1"), 1e6)], "no image of /camera/depth is within 0.02 s of a frame.*one clock"),
        ([image(COLOURS, "rgb8")], "frame 0.*encoding rgb8 is none of depth: 16UC1, mono16, 32FC1"),
        ([compressed(RAMP, "PNG", "16UC1; compressedDepth png")], "is compressed.*topics of images: /camera/color"),
        ([image(RAMP[:14], "16UC1")], "the depth map has 28×14 pixels, its image 28×28"),
        ([("Image", image(RAMP, "16UC1")[1] | {"data": np.zeros(9, np.uint8)})], "is damaged or truncated"),
    ],
)
def test_what_is_no_depth_is_said(tmp_path: Path, topic: list, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        depths_of(write(tmp_path, "ros1", COLOUR | {str(DEPTH): topic}))


def test_a_topic_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, "mcap", COLOUR)
    with pytest.raises(SourceError, match=r"neither a topic of images in it nor a folder.*/camera/color \(4 images\)"):
        depths_of(path)


def test_maps_in_a_folder_are_for_recordings_too(tmp_path: Path) -> None:
    folder = tmp_path / "depth"
    folder.mkdir()
    np.savez_compressed(folder / "000002.npz", depth=RAMP)
    with open_source(SourceConfig(frames=str(write(tmp_path, "mcap", COLOUR)), size=SIDE, depth=folder)) as source:
        found = [bool(np.isfinite(frame.depth).any()) for frame in source]
    assert found == [False, False, True, False]


def test_pictures_of_such_a_run_are_decoded_again(tmp_path: Path) -> None:
    """Whoever reads the recording once more knows from `run.json` which topic is none of pictures."""
    path = write(tmp_path, "mcap", COLOUR | {str(DEPTH): [image(RAMP, "16UC1")]})
    config = SourceConfig(frames=str(path), size=SIDE, depth=DEPTH)
    write_run_json(tmp_path / "out", {"settings": {"source": config}})
    with open_source(config) as source:
        frame = list(source)[1]
    picture = Decoded(recorded_source(tmp_path / "out")).picture(frame)
    assert picture is not None
    np.testing.assert_array_equal(np.asarray(picture), COLOURS)
