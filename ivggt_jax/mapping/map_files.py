"""The map's graph in two append-only text files, `submaps.txt` and `loops.txt`. This module writes and reads their lines.

Both begin with a line that starts with `#` and names the columns; every other line has numbers separated by single spaces.

`submaps.txt` has a line for every submap, written when its first frame is finished:

    id part first index scale tx ty tz qx qy qz qw share spread

Submaps are numbered from 0. `part`, from 0, is the part of the map that the submap lies in; how two parts lie to each other is
unknown. `first` is the submap's first frame, counted from 0 like the lines of `trajectory.txt`; `index` is its number in the
source, which is larger where frames are left out, and which its files are called by. The similarity is world_from_submap as
known at that time: a point x of the submap lies at scale · R(q) · x + t, in OpenCV axes. `share` and `spread` rate the link to
the previous submap: the share of usable pixels, and the spread of the log ratio of their depths. If they are too bad, a new part
begins. Both are 0 for the first submap and after a cut.

If a depth sensor first gives the unit when there already is a map, a line comes between:

    #grown frame factor

Frames before `frame`, and the lines above, are in another unit: their lengths are to be multiplied by `factor`.

`loops.txt` has a line for every pair of places that was compared, in the order of the comparisons:

    a b scale tx ty tz qx qy qz qw likeness matches support error verdict

a < b are submaps. The similarity is a_from_b, measured from this pair alone: a point x of submap b is the point scale · R(q) · x
+ t of submap a. The scores are those of `loops.Scores`; the verdict is `accepted` or the reason for rejection. What the graph
makes of accepted pairs is not in this file, because every later loop may change it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.spatial.transform import Rotation

from ivggt_jax.mapping.loops import VERDICTS, Proof, Scores, Verdict
from ivggt_jax.transforms import Similarity

SUBMAPS_FILE, LOOPS_FILE = "submaps.txt", "loops.txt"
MOST_LINES = 10_000_000
"""A longer file is rejected as not ours."""
MOST_BYTES = 1024
"""Longest line that is read."""
_LARGEST = 1e12
"""Largest magnitude that is read."""
_SIMILARITY = "scale tx ty tz qx qy qz qw"
SUBMAP_COLUMNS = f"id part first index {_SIMILARITY} share spread"
GROWN = "#grown"
"""First word of a line that says that the unit has changed. Programs that read tables skip lines that begin with #."""
GROWTH_COLUMNS = f"{GROWN} frame factor"
LOOP_COLUMNS = f"a b {_SIMILARITY} {' '.join(Scores._fields)} verdict"
_Record = TypeVar("_Record")


class Growth(NamedTuple):
    """A line of `submaps.txt` that says that the map's unit has changed."""

    frame: int
    """The run's first frame in the new unit."""
    factor: float
    """Lengths before it are to be multiplied by this."""

    def move(self, frame: int) -> Similarity:
        """The move of a frame, as it was written, to the map's last unit."""
        return Similarity(self.factor if frame < self.frame else 1.0)


@dataclass(frozen=True, eq=False)
class SubmapRecord:
    """A line of `submaps.txt`."""

    submap: int
    part: int
    first: int
    """The run's frame with which it begins."""
    index: int
    """The same frame's number in the source (`Frame.index`)."""
    world_from_submap: Similarity
    share: float
    spread: float
    growth: Growth | None = None
    """How the map's unit has changed since; None if it has not."""

    @property
    def placed(self) -> Similarity:
        """world_from_submap in the map's present unit."""
        return Similarity(self.growth.factor).after(self.world_from_submap) if self.growth else self.world_from_submap


def submap_line(record: SubmapRecord) -> str:
    """The line of a submap, without line end."""
    numbers = (*_numbers(record.world_from_submap), record.share, record.spread)
    return f"{record.submap} {record.part} {record.first} {record.index} {_text(numbers)}"


def growth_line(growth: Growth) -> str:
    """The line of a change of the unit, without line end."""
    return f"{GROWN} {growth.frame} {_text((growth.factor,))}"


def loop_line(proof: Proof) -> str:
    """The line of a pair of places, without line end."""
    return f"{proof.a} {proof.b} {_text((*_numbers(proof.a_from_b), *proof.scores))} {proof.verdict}"


def read_submaps(path: Path) -> list[SubmapRecord]:
    """The submaps of a run. Raises ValueError naming the first invalid line, OSError when there is no file."""

    def parse(words: list[str], before: list[SubmapRecord]) -> SubmapRecord | None:
        if words[0] == GROWN:
            before[:] = _grown(words, before)
            return None
        _check_width(words, SUBMAP_COLUMNS)
        submap, part, first, index = _wholes(words[:4])
        similarity, (share, spread) = _similarity(words[4:12]), _finite(words[12:])
        last = before[-1] if before else None
        if submap != len(before):
            raise ValueError(f"submap {submap} where {len(before)} is next")
        if part != 0 if last is None else not last.part <= part <= last.part + 1:
            raise ValueError(f"part {part} cannot follow")
        least = 0 if last is None else last.growth.frame if last.growth else last.first + 1
        if first < least or (last is None and first > 0):
            raise ValueError(f"a submap cannot begin with frame {first} here")
        if not 0 <= share <= 1 or spread < 0:
            raise ValueError("share must be from 0 to 1 and spread not negative")
        return SubmapRecord(submap, part, first, index, similarity, share, spread)

    return _read(path, SUBMAP_COLUMNS, parse)


def read_loops(path: Path) -> list[Proof]:
    """The pairs that were compared. Raises like `read_submaps`."""

    def parse(words: list[str], before: list[Proof]) -> Proof:
        _check_width(words, LOOP_COLUMNS)
        a, b = _wholes(words[:2])
        if not a < b:
            raise ValueError(f"{a} must be less than {b}")
        if words[-1] not in VERDICTS:
            raise ValueError(f"no verdict is called {words[-1]!r}")
        verdict: Verdict = words[-1]
        (likeness, error), (matches, support) = _finite([words[10], words[13]]), _wholes(words[11:13])
        return Proof(a, b, _similarity(words[2:10]), Scores(likeness, matches, support, error), verdict)

    return _read(path, LOOP_COLUMNS, parse)


def read_growth(path: Path) -> Growth | None:
    """How the unit has changed during a run, by its `submaps.txt`, of which nothing else is read.

    None if it has not, or if there is no file. Raises ValueError naming the invalid line.
    """
    for number, line in _lines(path) if path.is_file() else ():
        if line.startswith(GROWN):
            try:
                return _growth(line.split(" "))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    return None


def _grown(words: list[str], before: list[SubmapRecord]) -> list[SubmapRecord]:
    """The submaps before a line that says how the unit has changed."""
    growth = _growth(words)
    if not before or before[0].growth or growth.frame <= before[-1].first:
        raise ValueError(f"the unit cannot change in frame {growth.frame} here")
    return [replace(record, growth=growth) for record in before]


def _growth(words: list[str]) -> Growth:
    _check_width(words, GROWTH_COLUMNS)
    (frame,), (factor,) = _wholes(words[1:2]), _finite(words[2:])
    if not factor >= 1 / _LARGEST:
        raise ValueError(f"the factor {factor} is not positive")
    return Growth(frame, factor)


def _read(path: Path, columns: str, parse: Callable[[list[str], list[_Record]], _Record | None]) -> list[_Record]:
    """Parse the lines after the header.

    `parse` also gets the records so far, which it may change; it returns None for a line that adds no record.
    """
    found: list[_Record] = []
    for number, line in _lines(path):
        try:
            if number == 1:
                if not line.startswith(f"# {columns}"):
                    raise ValueError(f"the file must begin with '# {columns}'")
                continue
            record = parse(line.split(" "), found)
            if record is not None:
                found.append(record)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines and their numbers from 1, without line ends. Raises ValueError for anything but whole lines of ASCII text."""
    with path.open("rb") as file:
        number = 0
        while data := file.readline(MOST_BYTES):
            number += 1
            if not data.endswith(b"\n") or not data.isascii() or number > MOST_LINES:
                raise ValueError(f"{path}, line {number}: not a whole line of at most {MOST_BYTES} ASCII characters")
            yield number, data[:-1].decode("ascii")
        if number == 0:
            raise ValueError(f"{path}, line 1: the file is empty")


def _check_width(words: list[str], columns: str) -> None:
    if len(words) != (wanted := len(columns.split())):
        raise ValueError(f"{len(words)} columns instead of {wanted}")


def _text(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:.9g}" for number in numbers)


def _numbers(similarity: Similarity) -> tuple[float, ...]:
    quaternion = Rotation.from_matrix(similarity.rotation).as_quat(canonical=True)
    return (float(similarity.scale), *(float(x) for x in (*similarity.translation, *quaternion)))


def _wholes(words: list[str]) -> list[int]:
    for word in words:
        if not (word.isdigit() and len(word) <= 12 and word == str(int(word))):
            raise ValueError(f"{word!r} is not a whole number")
    return [int(word) for word in words]


def _finite(words: list[str]) -> list[float]:
    numbers = [float(word) for word in words]
    for word, number in zip(words, numbers, strict=True):
        if not (math.isfinite(number) and abs(number) <= _LARGEST) or "_" in word or word != word.strip():
            raise ValueError(f"{word!r} is not a number of at most {_LARGEST:g}")
    return numbers


def _similarity(words: list[str]) -> Similarity:
    scale, *rest = _finite(words)
    quaternion = np.array(rest[3:])
    if not scale >= 1 / _LARGEST:
        raise ValueError(f"the scale {scale} is not positive")
    if abs(np.linalg.norm(quaternion) - 1) > 1e-6:
        raise ValueError("the quaternion is not of length 1")
    return Similarity(scale, Rotation.from_quat(quaternion).as_matrix(), np.array(rest[:3]))
