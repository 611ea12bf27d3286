"""Times in file names (TUM's seconds 1305031102.175304, EuRoC's nanoseconds 1403636579763555584), and which belong together."""

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import PurePath

import numpy as np
from scipy.spatial import KDTree

EARLIEST, LATEST = 1e9, 2e9
"""Unix seconds, of 2001 and 2033: a whole number is a time when it lies between them in one of the units. Dates written
as numbers (20240131120000) lie outside."""
UNITS = {10: 1, 13: 1_000, 16: 1_000_000, 19: 1_000_000_000}
"""Digits of such a number to units per second."""
ASSOCIATION_SECONDS = 0.02
"""Two recordings belong to one moment when their times differ by less; the TUM benchmark's own limit."""


def seconds_of(text: str) -> float | None:
    """Seconds that a word stands for: a decimal fraction, or Unix time in s, ms, µs or ns; None for anything else."""
    if re.fullmatch(r"[0-9]+\.[0-9]+", text):
        return float(text)
    if not re.fullmatch(r"[0-9]+", text) or len(text) not in UNITS:
        return None
    seconds = int(text) / UNITS[len(text)]
    return seconds if EARLIEST <= seconds < LATEST else None


def times_of(paths: Iterable[PurePath]) -> list[float] | None:
    """Seconds of files that are all named by their time, which rises from each to the next; None for others."""
    times = [seconds_of(path.stem) for path in paths]
    known = [time for time in times if time is not None]
    return known if len(known) == len(times) and rising(known) else None


def in_seconds(times: np.ndarray) -> np.ndarray:
    """Times [N] of a table, in seconds where all are Unix time in ms, µs or ns; other numbers stay."""
    known = times[np.isfinite(times)]
    for unit in UNITS.values():
        if known.size and (known >= EARLIEST * unit).all() and (known < LATEST * unit).all():
            return times / unit
    return times


def rising(times: Iterable[float]) -> bool:
    """Whether each is more than the one before."""
    return all(before < after for before, after in pairwise(times))


def nearest_in_time(times: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each time [S] the index of the nearest of the others [N], or −1 where none is near; NaN is never near."""
    known = np.flatnonzero(np.isfinite(others))
    if len(known) == 0:
        return np.full(len(times), -1)
    distance, index = KDTree(others[known, None]).query(times[:, None], distance_upper_bound=ASSOCIATION_SECONDS)
    return np.where(np.isfinite(distance), known[np.minimum(index, len(known) - 1)], -1)
