"""Tables of numbers as people have them: encodings, separators, headers, units of time."""

import codecs
import os
from pathlib import Path

import numpy as np
import pytest

from ivggt_jax.runs.known_trajectory import read_trajectory
from ivggt_jax.sources.times import in_seconds
from ivggt_jax.trajectories.tables import read_table, times_in_names

ROWS = np.array([[1305031170 + index, index, 0, 0.5, 0, 0, 0, 1] for index in range(4)])
PLAIN = "".join(" ".join(map(repr, row)) + "\n" for row in ROWS.tolist())
HEADER = "timestamp tx ty tz qx qy qz qw\n"


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode(),
        ("# comment\n\n" + PLAIN).encode(),
        codecs.BOM_UTF8 + PLAIN.encode(),
        codecs.BOM_UTF8 + ("# comment\n" + PLAIN).encode(),
        PLAIN.encode("utf-16"),
        (HEADER + PLAIN).encode("utf-32"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        (HEADER + PLAIN).replace(" ", ",").encode(),
        (HEADER + PLAIN).replace(" ", ";").encode(),
        PLAIN.replace(" ", "\t").encode(),
        PLAIN.replace(" ", " , ").encode(),
        b"# \xe9t\xe9\n" + PLAIN.encode(),
    ],
)
def test_one_table_in_many_dresses(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(data)
    rows, problems = read_table(tmp_path / "t.txt", 8)
    np.testing.assert_array_equal(rows, ROWS)
    assert not problems


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (PLAIN + HEADER, [5]),
        (HEADER + HEADER + PLAIN, [2]),
        ("1 2 3\n" + PLAIN, [1]),
        ("1 x 0 0 0 0 0 1\n" + PLAIN, [1]),
    ],
)
def test_damaged_rows_are_told(text: str, lines: list[int], tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(text)
    rows, problems = read_table(tmp_path / "t.txt", 8)
    assert len(rows) == 5 and np.isnan(rows).all(axis=1).sum() == 1
    assert problems == tuple(f"{tmp_path / 't.txt'} line {line} does not hold 8 numbers" for line in lines)


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_unix_time_of_every_unit_is_seconds(unit: int, tmp_path: Path) -> None:
    np.testing.assert_allclose(in_seconds(ROWS[:, 0] * unit), ROWS[:, 0])
    paths = [Path(f"{int(time) * unit}.png") for time in ROWS[:, 0]]
    np.testing.assert_allclose(times_in_names(paths), ROWS[:, 0])
    (tmp_path / "t.txt").write_text("".join(f"{int(row[0]) * unit} 0 0 0 0 0 0 1\n" for row in ROWS))
    np.testing.assert_allclose(read_trajectory(tmp_path / "t.txt")[0], ROWS[:, 0])


@pytest.mark.parametrize("times", [[0.0, 0.1, 0.2], [1.5, 1e18], [0.0, 1_403_636_579_763_555_584.0], [np.nan]])
def test_other_times_stay(times: list[float]) -> None:
    np.testing.assert_array_equal(in_seconds(np.array(times)), times)
    assert times_in_names([Path("1305031170.5.png"), Path("left.png")]) is None


def test_what_is_no_table_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (tmp_path / "link").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("photo.png", "is not a text file"),
        (".", "is a folder"),
        ("link", "is a link to gone, and there is no such file"),
        ("pipe", "is no file but a pipe"),
        ("gone", "there is no such file; name a trajectory in TUM format"),
    ):
        with pytest.raises(ValueError, match=words):
            read_trajectory(tmp_path / name)
