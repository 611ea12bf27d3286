"""Times in file names (TUM's seconds 1305031102.175304, EuRoC's nanoseconds 1403636579763555584), and matching by time."""

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import PurePath

import numpy as np
from scipy.spatial import KDTree

EARLIEST, LATEST = 1e9, 2e9
"""Unix seconds of 2001 and 2033: an integer is a time if it lies between them in one of the units. Dates written as numbers
(20240131120000) do not."""
UNITS = {10: 1, 13: 1_000, 16: 1_000_000, 19: 1_000_000_000}
"""Number of digits → units per second."""
ASSOCIATION_SECONDS = 0.02
"""Two recordings are matched if their times differ by less; the TUM benchmark's own limit."""


def seconds_of(text: str) -> float | None:
    """Time in seconds from a word: a decimal fraction, or Unix time in s, ms, µs or ns; None for anything else."""
    if re.fullmatch(r"[0-9]+\.[0-9]+", text):
        return float(text)
    if not re.fullmatch(r"[0-9]+", text) or len(text) not in UNITS:
        return None
    seconds = int(text) / UNITS[len(text)]
    return seconds if EARLIEST <= seconds < LATEST else None


def times_of(paths: Iterable[PurePath]) -> list[float] | None:
    """Times in seconds of files that are all named by increasing times; None for others."""
    times = [seconds_of(path.stem) for path in paths]
    known = [time for time in times if time is not None]
    return known if len(known) == len(times) and rising(known) else None


def in_seconds(times: np.ndarray) -> np.ndarray:
    """Times [N] of a table, converted to seconds if all are Unix times in ms, µs or ns; otherwise unchanged."""
    known = times[np.isfinite(times)]
    for unit in UNITS.values():
        if known.size and (known >= EARLIEST * unit).all() and (known < LATEST * unit).all():
            return times / unit
    return times


def rising(times: Iterable[float]) -> bool:
    """Whether each time is larger than the one before."""
    return all(before < after for before, after in pairwise(times))


def nearest_in_time(times: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each time [S] the index of the nearest of the others [N], or −1 if none is near; NaN is never near."""
    nearest, known, asked = np.full(len(times), -1), np.flatnonzero(np.isfinite(others)), np.isfinite(times)
    if len(known) == 0:
        return nearest
    distance, index = KDTree(others[known, None]).query(times[asked, None], distance_upper_bound=ASSOCIATION_SECONDS)
    nearest[asked] = np.where(np.isfinite(distance), known[np.minimum(index, len(known) - 1)], -1)
    return nearest
