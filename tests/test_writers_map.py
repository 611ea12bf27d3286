"""The writers of a map, and its correction: a walk through the box of `writer_scene`, there and back, with a known drift.

80 frames, a submap every 10 of them. With each, evenly, the world turns by 1.2°, grows by 2 % and shifts, so that on the way
back the same walls are thought to be elsewhere.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from writer_scene import camera, invert, result

from ivggt_jax.mapping.map_files import read_loops, read_submaps
from ivggt_jax.mapping.state import MapRecord
from ivggt_jax.runs.corrected import describe_correction, read_correction
from ivggt_jax.transforms import Similarity
from ivggt_jax.writers import ExportOptions, Result, ResumeError, Writers
from ivggt_jax.writers.saved_run import SavedRun

FRAMES, LENGTH = 80, 10
NAMES = ("npz", "submaps", "loops")


def index(number: int) -> int:
    """Where on the way the frame with this number is: there, and back again."""
    return min(number, FRAMES - 1 - number)


def drifted(number: int) -> Similarity:
    """What the frame with this number takes for the world, of the true one."""
    submaps = number / LENGTH
    turn = Rotation.from_rotvec(submaps * np.array([0.012, -0.015, 0.008])).as_matrix()
    return Similarity(1.02**submaps, turn, submaps * np.array([0.04, 0.02, -0.04]))


def walk() -> Iterator[Result]:
    """The frames, as a stream with submaps puts them into a world that drifts."""
    for number in range(FRAMES):
        submap, place = number // LENGTH, index(number)
        anchor = max(0, submap * LENGTH - 1)
        begin = camera(index(anchor))
        seen = MapRecord(
            submap=submap, part=0, anchor=number % LENGTH == LENGTH - 1,
            world_from_submap=drifted(anchor).after(Similarity(1.0, begin[:, :3], begin[:, 3])),
            link_share=0.9, link_spread=0.05, refined=True, agreement=0.9, token=np.cos(np.arange(8) * place / 9),
        )  # fmt: skip
        true = result(place)
        yield replace(
            true,
            frame=replace(true.frame, index=number, name=f"{number:06d}.png"),
            cam_from_world=invert(drifted(number).poses(camera(place))),
            depth=(drifted(number).scale * true.depth).astype(np.float32),
            points=None,
            points_confidence=None,
            map=seen,
        )


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return list(walk())


def write(out: Path, results: list[Result], names=NAMES, first: int = 0, state=None) -> Writers:
    writers = Writers(names, out, ExportOptions(), first, state)
    for item in results[first:]:
        writers.write(item)
    return writers


@pytest.fixture(scope="module")
def run(results: list[Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("map")
    writers = write(out, results)
    writers.close()
    assert writers.record()["submaps"] == {"submaps": 8, "parts": 1, "refined": FRAMES, "refused": 0}
    loops = writers.record()["loops"]
    assert loops["places"] == {"seen": 8, "kept": 8, "every": 1}
    # Compared with those at least six submaps ago: 6 with 0; 7 with 0 and 1.
    assert sum(loops["pairs"].values()) == len(read_loops(out / "loops.txt")) == 3
    return out


def drift(cameras: np.ndarray) -> float:
    """How far the two visits of each place are apart, on average, in the unit of the world."""
    return float(np.mean(np.linalg.norm(cameras[:10, :, 3] - cameras[:-11:-1, :, 3], axis=1)))


def test_loops_set_a_map_right_that_drifted(run: Path, results: list[Result]):
    """The first and the last ten frames are the same places. What the drift put 0.29 apart is within 0.1 again."""
    correction, record = read_correction(run)
    corrected = SavedRun(run).moved(correction)
    before, after = (np.stack([item.world_from_cam for item in frames]) for frames in (results, corrected))
    assert drift(before) > 0.25
    assert drift(after) < 0.1
    assert record["loops"]["kept"] >= 2
    assert record["parts"] == 1
    assert record["disagreement_after"] < record["disagreement_before"] / 2
    assert 0.1 < record["largest_move"] < 1
    assert f"corrected by {record['loops']['kept']} loops" in describe_correction(record)


def test_depth_and_points_move_with_the_cameras(run: Path, results: list[Result]):
    corrected = SavedRun(run).moved(read_correction(run)[0])
    for number in (0, 7, 30, 79):
        item, depth = corrected[number], results[number].depth
        assert item.depth is not None
        assert depth is not None
        scale = item.depth / depth
        np.testing.assert_allclose(scale, scale[0, 0], rtol=1e-5)
        assert 0.8 < scale[0, 0] < 1.05
    np.testing.assert_allclose(corrected[0].cam_from_world, results[0].cam_from_world, atol=1e-6)
    assert [item.frame.index for item in corrected[20:24]] == [20, 21, 22, 23]
    np.testing.assert_array_equal(corrected.camera(30).cam_from_world, corrected[30].cam_from_world)


def test_nothing_jumps_between_two_submaps(run: Path, results: list[Result]):
    """The way from frame to frame is the drifting one's to 2 cm of 7: each change is spread over a whole submap."""
    corrected = SavedRun(run).moved(read_correction(run)[0])

    def steps(frames) -> np.ndarray:
        return np.linalg.norm(np.diff([item.world_from_cam[:, 3] for item in frames], axis=0), axis=1)

    assert np.abs(steps(corrected) - steps(results)).max() < 0.02


def test_a_map_in_parts_moves_each_by_itself(run: Path, results: list[Result], tmp_path: Path):
    """Without loops and with a break after the fourth submap nothing moves."""
    parted = [replace(item, map=replace(item.map, part=int(item.map.submap > 3))) for item in results if item.map]
    write(tmp_path, parted, ("npz", "submaps", "loops")).close()
    lines = (tmp_path / "loops.txt").read_text().splitlines()
    (tmp_path / "loops.txt").write_text(lines[0] + "\n")
    correction, record = read_correction(tmp_path)
    corrected = SavedRun(tmp_path).moved(correction)
    assert record["parts"] == 2
    assert record["largest_move"] == 0
    for one, other in zip(corrected.cameras(), results, strict=True):
        np.testing.assert_allclose(one.cam_from_world, other.cam_from_world, atol=1e-12)


@pytest.mark.parametrize("stopped", [1, 8, 9, 30, 69, 73, 79])
def test_a_resumed_map_has_the_same_bytes(run: Path, results: list[Result], tmp_path: Path, stopped: int):
    """Killed three frames after the state was saved."""
    names = ("submaps", "loops")
    first = write(tmp_path, results[:stopped], names)
    state = {name: np.array(array) for name, array in first.state().items()}
    for item in results[stopped : stopped + 3]:
        first.write(item)
    first.close()
    write(tmp_path, results, names, stopped, state).close()
    for name in ("submaps.txt", "loops.txt", "places.bin"):
        assert (tmp_path / name).read_bytes() == (run / name).read_bytes()


def late(results: list[Result], reading: int) -> list[Result]:
    """The same walk when a depth sensor gives the world's unit only in frame `reading`: before it, lengths are a third."""
    shorter, found = Similarity(1 / 3), []
    for number, item in enumerate(results):
        assert item.map is not None
        assert item.depth is not None
        seen = replace(item.map, grown=3.0 if number == reading else 1.0)
        if number < reading:
            cameras, depth = invert(shorter.poses(item.world_from_cam)), (item.depth / 3).astype(np.float32)
            seen = replace(seen, world_from_submap=shorter.after(seen.world_from_submap))
            item = replace(item, cam_from_world=cameras, depth=depth)
        found.append(replace(item, map=seen))
    return found


@pytest.mark.parametrize("reading", [20, 25, 33])
def test_a_unit_that_is_known_late_makes_the_same_map(run: Path, results: list[Result], tmp_path: Path, reading: int):
    """Also if the run was killed after the reading, and if the first frame of a submap has it."""
    changed = late(results, reading)
    first = write(tmp_path, changed[: reading + 2])
    state = {name: np.array(array) for name, array in first.state().items()}
    first.close()
    write(tmp_path, changed, first=reading + 2, state=state).close()
    (move, record), (wanted, plain) = read_correction(tmp_path), read_correction(run)
    assert record["loops"] == plain["loops"]
    found, same = SavedRun(tmp_path), SavedRun(run)
    for one, other in (*zip(found, same, strict=True), *zip(found.moved(move), same.moved(wanted), strict=True)):
        np.testing.assert_allclose(one.cam_from_world, other.cam_from_world, atol=1e-4)
        np.testing.assert_allclose(one.depth, other.depth, rtol=1e-4)


def test_a_map_that_was_changed_is_not_resumed(results: list[Result], tmp_path: Path):
    writers = write(tmp_path, results[:75], ("loops",))
    state = writers.state()
    writers.close()
    (tmp_path / "loops.txt").write_text("# nothing\n")
    with pytest.raises(ResumeError, match="--overwrite"):
        write(tmp_path, results, ("loops",), 75, state)


def test_what_has_no_map_has_no_correction(run: Path, tmp_path: Path):
    writers = Writers(["loops"], tmp_path, ExportOptions())
    with closing(writers), pytest.raises(ValueError, match="loops.txt needs a run with submaps"):
        writers.write(result(0))
    (tmp_path / "loops.txt").unlink()
    write(tmp_path, [result(0)], ("npz",)).close()
    with pytest.raises(ValueError, match=r"has no submaps.txt: ivggt writes it with --loops"):
        read_correction(tmp_path)
    assert len(read_submaps(run / "submaps.txt")) == 8
