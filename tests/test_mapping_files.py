"""`submaps.txt` and `loops.txt` come back as they were written, go on where they were cut, and refuse everything else."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ivggt_jax.mapping.correction import correct
from ivggt_jax.mapping.loops import Proof, Scores
from ivggt_jax.mapping.map_files import LOOP_COLUMNS, Growth, SubmapRecord, loop_line, read_loops, read_submaps
from ivggt_jax.mapping.state import MapRecord
from ivggt_jax.transforms import Similarity
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.submaps import SubmapsWriter
from ivggt_jax.writers.writer import ExportOptions


def similarity(number: int) -> Similarity:
    """Any similarity: default_rng(number)."""
    rng = np.random.default_rng(number)
    turn = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
    return Similarity(float(np.exp(rng.normal())), turn, 10 * rng.normal(size=3))


def submaps(count: int) -> list[SubmapRecord]:
    """Of 32 frames, every second of the source; a new part of the map begins with the third."""
    return [
        SubmapRecord(i, int(i >= 2), 32 * i, 64 * i, similarity(i), *((0.0, 0.0) if i in (0, 2) else (0.875, 0.0312)))
        for i in range(count)
    ]


def loops(count: int) -> list[Proof]:
    verdicts = ("accepted", "matches", "support")
    return [Proof(i, i + 7, similarity(i), Scores(0.5, 40 + i, 20, 1.25 + i), verdicts[i % 3]) for i in range(count)]


def assert_same(found: Similarity, wanted: Similarity):
    for name in ("scale", "rotation", "translation"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-7, atol=1e-7)


def write_submaps(out: Path, count: int, grown: int | None = None):
    """As a run with submaps does, frame by frame; in frame `grown` a depth sensor first gives the unit."""
    writer = SubmapsWriter(out, ExportOptions(), 0, {})
    for record in submaps(count):
        seen = MapRecord(
            submap=record.submap, part=record.part, world_from_submap=record.world_from_submap, anchor=False,
            link_share=record.share, link_spread=record.spread, refined=False, agreement=0.0, token=np.zeros(0),
        )  # fmt: skip
        for i in range(32):
            factor = None if grown is None else 2.5 if record.first + i == grown else 1.0
            frame = SimpleNamespace(index=2 * (record.first + i))
            writer.write(cast(Result, SimpleNamespace(frame=frame, map=replace(seen, grown=factor))))
    writer.close()


def write_loops(out: Path, count: int):
    lines = [f"# {LOOP_COLUMNS} (a from b, OpenCV axes)", *map(loop_line, loops(count))]
    (out / "loops.txt").write_text("".join(f"{line}\n" for line in lines))


def test_submaps_come_back(tmp_path: Path):
    write_submaps(tmp_path, 5)
    found = read_submaps(tmp_path / "submaps.txt")
    assert len(found) == 5
    for one, other in zip(found, submaps(5), strict=True):
        assert (one.submap, one.part, one.first, one.index) == (other.submap, other.part, other.first, other.index)
        assert (one.share, one.spread) == (other.share, other.spread)
        assert_same(one.world_from_submap, other.world_from_submap)


def test_a_change_of_the_unit_comes_back(tmp_path: Path):
    write_submaps(tmp_path, 3, grown=40)
    assert (tmp_path / "submaps.txt").read_text().splitlines()[3] == "#grown 40 2.5"
    one, other, last = read_submaps(tmp_path / "submaps.txt")
    assert (one.growth, other.growth, last.growth) == (Growth(40, 2.5), Growth(40, 2.5), None)
    for record in (one, other):
        assert_same(record.placed, Similarity(2.5).after(record.world_from_submap))
    assert last.placed is last.world_from_submap


def test_a_change_of_the_unit_moves_nothing(tmp_path: Path):
    write_submaps(tmp_path, 3, grown=40)
    assert correct(read_submaps(tmp_path / "submaps.txt"), []).largest_move == pytest.approx(0, abs=1e-6)


def test_a_unit_that_is_known_from_the_first_frame_is_no_change(tmp_path: Path):
    write_submaps(tmp_path, 3, grown=0)
    assert not any(record.growth for record in read_submaps(tmp_path / "submaps.txt"))


def test_a_reading_in_a_submaps_first_frame_changes_the_unit_of_those_before(tmp_path: Path):
    write_submaps(tmp_path, 3, grown=64)
    assert [record.growth for record in read_submaps(tmp_path / "submaps.txt")] == [Growth(64, 2.5)] * 2 + [None]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["#grown 0 2"], "the unit cannot change in frame 0 here"),
        (["#grown 5 0"], "the factor 0.0 is not positive"),
        (["#grown 5 -2"], "the factor -2.0 is not positive"),
        (["#grown 5 nan"], "'nan' is not a number"),
        (["#grown x 2"], "'x' is not a whole number"),
        (["#grown 5"], "2 columns instead of 3"),
        (["#grown 5 2", "#grown 6 2"], "the unit cannot change in frame 6 here"),
        (["#grown 40 2", "1 0 32 64 1 0 0 0 0 0 0 1 0.5 0.1"], "cannot begin with frame 32"),
        (
            ["#grown 20 2", "1 0 32 64 1 0 0 0 0 0 0 1 0.5 0.1", "#grown 40 2"],
            "the unit cannot change in frame 40 here",
        ),
    ],
)
def test_what_is_no_change_of_the_unit_is_refused(tmp_path: Path, lines: list[str], reason: str):
    write_submaps(tmp_path, 1)
    path = tmp_path / "submaps.txt"
    path.write_text(path.read_text() + "".join(f"{line}\n" for line in lines))
    with pytest.raises(ValueError, match=rf"line {2 + len(lines)}: .*{reason}"):
        read_submaps(path)


def test_loops_come_back(tmp_path: Path):
    write_loops(tmp_path, 6)
    found = read_loops(tmp_path / "loops.txt")
    assert len(found) == 6
    for one, other in zip(found, loops(6), strict=True):
        assert (one.a, one.b, one.scores, one.verdict) == (other.a, other.b, other.scores, other.verdict)
        assert_same(one.a_from_b, other.a_from_b)


def test_lines_are_as_documented():
    turned = Similarity(0.5, Rotation.from_rotvec([0, np.pi / 2, 0]).as_matrix(), np.array([1.0, -2, 3]))
    assert LOOP_COLUMNS == "a b scale tx ty tz qx qy qz qw likeness matches support error verdict"
    line = loop_line(Proof(2, 9, turned, Scores(0.5, 75, 30, 1.5), "accepted"))
    assert line == "2 9 0.5 1 -2 3 0 0.707106781 0 0.707106781 0.5 75 30 1.5 accepted"


GOOD = "1 0 32 64 1 0 0 0 0 0 0 1 0.5 0.1"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (GOOD + " 1", "15 columns"),
        (GOOD.replace(" ", "  ", 1), "15 columns"),
        (GOOD[:-4], "13 columns"),
        ("", "1 columns"),
        (GOOD.replace("1", "2", 1), "submap 2 where 1 is next"),
        (GOOD.replace("1 0", "-1 0", 1), "'-1' is not a whole number"),
        (GOOD.replace("32", "3_2"), "'3_2' is not a whole number"),
        (GOOD.replace("32", "032"), "'032' is not a whole number"),
        (GOOD.replace("32", "9" * 13), "is not a whole number"),
        (GOOD.replace("1 0 32", "1 2 32"), "part 2 cannot follow"),
        (GOOD.replace("32", "0"), "cannot begin with frame 0"),
        (GOOD.replace("0.1", "nan"), "'nan' is not a number"),
        (GOOD.replace("0.1", "inf"), "'inf' is not a number"),
        (GOOD.replace("0.1", "1e13"), "'1e13' is not a number of at most"),
        (GOOD.replace("0.1", "1_0"), "'1_0' is not a number"),
        (GOOD.replace("0.1", "x"), "could not convert"),
        (GOOD.replace("0.1", "-0.1"), "spread not negative"),
        (GOOD.replace("0.5", "1.5"), "share must be"),
        (GOOD.replace("64 1", "64 0"), "scale 0.0 is not positive"),
        (GOOD.replace("64 1", "64 -1"), "scale -1.0 is not positive"),
        (GOOD.replace("0 1 0.5", "0 2 0.5"), "quaternion"),
        (GOOD + "\x00", "could not convert|is not a number"),
        (GOOD + "é", "not a whole line"),
        (GOOD + " " * 2000, "not a whole line"),
    ],
)
def test_what_is_no_submap_is_refused_by_its_line(tmp_path: Path, line: str, reason: str):
    write_submaps(tmp_path, 1)
    path = tmp_path / "submaps.txt"
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}, line 3: .*({reason})"):
        read_submaps(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("0 7", "7 7"), "7 must be less than 7"),
        (("accepted", "maybe"), "no verdict is called 'maybe'"),
        ((" 20", ""), "14 c"),
        ((" 40 ", " 40.5 "), "'40.5' is not a whole number"),
    ],
)
def test_what_is_no_loop_is_refused_by_its_line(tmp_path: Path, change: tuple[str, str], reason: str):
    write_loops(tmp_path, 1)
    path = tmp_path / "loops.txt"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(ValueError, match=rf"line 2: {reason}"):
        read_loops(path)


@pytest.mark.parametrize(("cut", "line"), [(slice(0, 0), 1), (slice(0, -1), 3), (slice(2, None), 1), (slice(0, 10), 1)])
def test_files_that_are_not_whole_are_refused(tmp_path: Path, cut: slice, line: int):
    write_submaps(tmp_path, 2)
    path = tmp_path / "submaps.txt"
    path.write_bytes(path.read_bytes()[cut])
    with pytest.raises(ValueError, match=f"line {line}: "):
        read_submaps(path)


def test_a_map_of_no_submaps_is_empty(tmp_path: Path):
    SubmapsWriter(tmp_path, ExportOptions(), 0, {}).close()
    write_loops(tmp_path, 0)
    assert read_submaps(tmp_path / "submaps.txt") == read_loops(tmp_path / "loops.txt") == []
