"""Text tables of numbers, and of poses."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ivggt_jax.disk.text import decoded
from ivggt_jax.sources.times import seconds_of


def times_in_names(paths: Iterable[Path]) -> np.ndarray | None:
    """Times in seconds, float64 [S], of files that are named by their time (`seconds_of`); None if any is not."""
    times = [seconds_of(path.stem) for path in paths]
    return None if None in times else np.array(times, np.float64)


def read_table(path: Path, *columns: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers of a text file, float64 [N, columns[0]], and a line about each damaged row, which is all NaN.

    A row may have any of the numbers of columns in `columns`; of longer ones the first `columns[0]` are kept. Blank lines, lines
    that begin with #, and a first row of words, as in a CSV file, are skipped. Raises ValueError when there is no row, or the
    file is not text.
    """
    rows, problems = [], []
    try:
        lines = decoded(path.read_bytes()).splitlines()
    except ValueError as error:
        raise ValueError(f"{path} is not a text file ({error})") from error
    begun = False
    for line_number, line in enumerate(lines, 1):
        words = [word for word in re.split(r"[\s,;]+", line) if word]
        if not words or words[0].startswith("#"):
            continue
        row = [_number(word) for word in words]
        is_header = not begun and all(number is None for number in row)
        begun = True
        if is_header:
            continue
        if len(row) not in columns or None in row:
            problems.append(f"{path} line {line_number} does not hold {' or '.join(map(str, columns))} numbers")
            row = [np.nan] * columns[0]
        rows.append(row[: columns[0]])
    if not rows:
        raise ValueError(f"{path} holds no numbers")
    return np.array(rows, np.float64), tuple(problems)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def poses_from_rows(rows: np.ndarray) -> np.ndarray:
    """Matrices [N, 3, 4] from their 12 numbers, row by row [N, 12]; NaN where any number is not finite."""
    poses = rows.reshape(-1, 3, 4)
    return np.where(np.isfinite(poses).all(axis=(1, 2), keepdims=True), poses, np.nan)


def poses_from_tum(rows: np.ndarray) -> np.ndarray:
    """world_from_cam [N, 3, 4] from TUM's rows [N, 8], timestamp tx ty tz qx qy qz qw; NaN where not finite or q = 0."""
    poses = np.full((len(rows), 3, 4), np.nan)
    usable = np.isfinite(rows).all(axis=1) & (np.linalg.norm(rows[:, 4:], axis=1) > 1e-6)
    if usable.any():
        poses[usable, :, :3] = Rotation.from_quat(rows[usable, 4:]).as_matrix()
        poses[usable, :, 3] = rows[usable, 1:4]
    return poses


def read_pose_files(paths: Iterable[Path | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    """world_from_cam [S, 3, 4] from a text file with a 4×4 matrix per frame; for a damaged one NaN and a line about it."""
    poses, problems = [], []
    for path in paths:
        pose = np.full((3, 4), np.nan)
        if path is not None:
            try:
                rows, lines = read_table(path, 4)
                if lines or len(rows) != 4:
                    raise ValueError(f"{path} does not hold a 4 × 4 matrix")
                pose = poses_from_rows(rows[:3].reshape(1, 12))[0]
            except (OSError, ValueError) as error:
                problems.append(str(error))
        poses.append(pose)
    return np.array(poses), tuple(problems)
