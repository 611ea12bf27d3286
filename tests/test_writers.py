"""The writers as a run uses them: together, killed at any frame, resumed, on a full disk."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from writer_scene import moving, result

from ivggt_jax.writers import WRITERS, ExportOptions, ResumeError, Writers
from ivggt_jax.writers.depth import DepthWriter

FRAMES = 9
TESTED_ELSEWHERE = {"video", "rrd", "submaps", "loops"}
"""In test_writers_recordings.py and test_writers_map.py: what they write is compared by what it shows, or needs a map."""
MISSING = set() if find_spec("mcap") and find_spec("foxglove") else {"mcap"}
SAME_BYTES = tuple(sorted(set(WRITERS) - TESTED_ELSEWHERE - MISSING))
"""Outputs whose files are equal, byte for byte, when the results are."""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(out: Path, names, first=0, last=FRAMES, state=None, options=None) -> Writers:
    writers = Writers(names, out, options or ExportOptions(), first, state)
    for index in range(first, last):
        writers.write(moving(3 * index))  # a stride of three: file names follow the source, not the count
    return writers


def killed(out: Path, left: Path, *arguments, **keywords) -> dict[str, np.ndarray]:
    """Runs in `out`, then copies to `left` what a kill would leave; returns the state saved with the last frame."""
    writers = run(out, *arguments, **keywords)
    state = {key: np.array(value) for key, value in writers.state().items()}
    shutil.copytree(out, left)
    writers.close()
    return state


@pytest.mark.parametrize("name", SAME_BYTES)
@pytest.mark.parametrize("stop", [1, 5])
def test_a_resumed_run_equals_the_uninterrupted_one(name, stop, tmp_path):
    options = ExportOptions(max_points=1500)  # small enough for the voxels to double on the way
    first, second = tmp_path / "first", tmp_path / "second"
    run(tmp_path / "whole", [name], options=options).close()
    state = killed(tmp_path / "run", first, [name], last=stop, options=options)
    # Killed again, a frame after its last saved state.
    killed(first, second, [name], first=stop, last=stop + 1, state=state, options=options)
    run(second, [name], first=stop, state=state, options=options).close()
    assert files(second) == files(tmp_path / "whole")


@pytest.mark.parametrize("name", sorted(set(SAME_BYTES) - {"ply"}))
def test_resuming_what_is_not_there_is_an_error(name, tmp_path):
    run(tmp_path, [name], last=2).close()
    with pytest.raises(ResumeError, match="2 finished frames.*had finished 5.*--overwrite"):
        Writers([name], tmp_path, ExportOptions(), 5, {})


def test_a_picture_that_occurs_twice_has_one_mask(tmp_path):
    """As in a list that goes there and back; such a run can be resumed."""
    there, back = moving(0), moving(1)
    back = replace(back, frame=replace(back.frame, name=there.frame.name))
    writers = Writers(["masks"], tmp_path, ExportOptions())
    for each in (there, back):
        writers.write(each)
    Writers(["masks"], tmp_path, ExportOptions(), 2, writers.state()).close()
    assert len(files(tmp_path)) == 1


def test_a_fresh_run_removes_what_an_earlier_one_left(tmp_path):
    run(tmp_path, SAME_BYTES).close()
    (tmp_path / "frames" / ".000099.npz.part").write_bytes(b"half")
    run(tmp_path, SAME_BYTES, last=1).close()
    run(tmp_path / "other", SAME_BYTES, last=1).close()
    other = files(tmp_path / "other")
    assert {name: data for name, data in files(tmp_path).items() if not name.startswith("other")} == other


def test_files_are_whole_after_every_frame_without_closing(tmp_path):
    writers = Writers(SAME_BYTES, tmp_path, ExportOptions())
    for index in range(3):
        writers.write(moving(index))
        assert len(np.loadtxt(tmp_path / "tracks.txt", ndmin=2)) == index + 1
        assert len(np.loadtxt(tmp_path / "trajectory.txt", ndmin=2)) == index + 1
        assert len(np.loadtxt(tmp_path / "intrinsics.txt", ndmin=2)) == index + 1
        with np.load(tmp_path / "frames" / f"{index:06d}.npz") as saved:
            assert saved["depth"].shape == (112, 168)
        with Image.open(tmp_path / "depth" / f"{index:06d}.png") as picture:
            picture.load()
        assert len(np.loadtxt(tmp_path / "kitti.txt", ndmin=2)) == index + 1
        assert (tmp_path / "points.ply").read_bytes().startswith(b"ply\n")
    writers.close()


def test_an_unknown_name_lists_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"no writer is called obj; there are .*tum.*ply"):
        Writers(["tum", "obj"], tmp_path, ExportOptions())


def test_closing_goes_on_after_an_error(tmp_path):
    writers = Writers(["tum", "ply"], tmp_path, ExportOptions())
    item = result(0)
    writers.write(result(0, points=np.full_like(item.points, np.nan)))
    with pytest.raises(ValueError, match=r"points.ply would have no points.*1 frames.*--confidence"):
        writers.close()
    assert len((tmp_path / "trajectory.txt").read_text().splitlines()) == 2
    assert not (tmp_path / "points.ply").exists()


def test_the_record_says_what_the_cloud_is(tmp_path):
    writers = run(tmp_path, ["tum", "ply"], last=2)
    record = json.loads(json.dumps(writers.record()))
    writers.close()
    count = int((tmp_path / "points.ply").read_bytes().split(b"element vertex ")[1].split(b"\n")[0])
    assert record == {"ply": {"points": count, "voxel": pytest.approx(0.008, rel=0.5)}}


def test_a_camera_that_is_not_finite_is_an_error_and_leaves_nothing(tmp_path):
    writers = run(tmp_path, SAME_BYTES, last=1)
    with pytest.raises(ValueError, match="frame 000005.png: the predicted camera is not finite"):
        writers.write(result(5, cam_from_world=np.full((3, 4), np.nan)))
    writers.close()
    assert len((tmp_path / "trajectory.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"confidence": 100}, "--confidence"), ({"voxel": 0.0}, "--voxel"), ({"max_points": 3}, "--max-points")],
)
def test_options_that_make_no_sense_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ExportOptions(**options)


def test_depth_beyond_what_the_first_frame_allows_is_counted(tmp_path, caplog):
    """Two of the second frame's pixels are twenty times as far as the first frame's farthest, and one of them is masked."""
    near, far = result(0), result(1)
    depth, mask = np.ones_like(near.depth), np.ones(near.depth.shape, bool)
    beyond = depth.copy()
    beyond[0, :2], mask[0, 0] = 20, False
    writer = DepthWriter(tmp_path, ExportOptions(), 0, {})
    writer.write(replace(near, depth=depth))
    writer.write(replace(far, depth=beyond, frame=replace(far.frame, mask=mask)))
    assert int(writer.state()["far"]) == writer.record()["pixels_too_far"] == 1
    again = DepthWriter(tmp_path, ExportOptions(), 2, writer.state())
    assert again.record() == writer.record()
    writer.close()
    assert "1 pixels are farther than" in caplog.text
