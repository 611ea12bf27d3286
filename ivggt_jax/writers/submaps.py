"""`submaps.txt`: the submaps of the map, one per line (format in `mapping.map_files`)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ivggt_jax.mapping.map_files import (
    SUBMAP_COLUMNS,
    SUBMAPS_FILE,
    Growth,
    SubmapRecord,
    growth_line,
    submap_line,
)
from ivggt_jax.writers.files import LineFile
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer


class SubmapsWriter(Writer):
    """Appends a line to `submaps.txt` for every submap."""

    name = "submaps"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._frames = frames
        self._refined = int(state.get("refined", 0))
        self._submaps = int(state.get("submaps", 0))
        self._part = int(state.get("part", 0))
        self._grown = int(state.get("grown", 0))
        self._measured_from = int(state.get("measured_from", -1))
        lines = self._submaps + self._grown
        self._file = LineFile(out / SUBMAPS_FILE, lines, f"# {SUBMAP_COLUMNS} (world from submap, OpenCV axes)")

    def write(self, result: Result) -> None:
        """Append a line when the unit has changed, and one when a new submap has begun."""
        seen = result.map
        if seen is None:
            raise ValueError("submaps.txt needs a run with submaps")
        if self._submaps and seen.grown is not None and seen.grown != 1:
            self._file.append(growth_line(Growth(self._frames, float(seen.grown))))
            self._grown += 1
        if seen.submap == self._submaps:
            self._part = int(seen.part)
            share, spread = float(seen.link_share), float(seen.link_spread)
            index, placed = result.frame.index, seen.world_from_submap
            record = SubmapRecord(self._submaps, self._part, self._frames, index, placed, share, spread)
            self._file.append(submap_line(record))
            self._submaps += 1
        if self._measured_from < 0 and seen.measured:
            self._measured_from = result.frame.index
        self._frames += 1
        self._refined += bool(seen.refined)

    def state(self) -> dict[str, np.ndarray]:
        """The number of lines, and the counts of `record`."""
        counts = {"refined": self._refined, "submaps": self._submaps, "part": self._part, "grown": self._grown}
        return {name: np.array(count) for name, count in {**counts, "measured_from": self._measured_from}.items()}

    def record(self) -> dict[str, int]:
        """Counts of submaps and parts of the map, and of frames whose refinement was accepted and rejected.

        With a depth sensor also the first frame whose depth was used, by its number in the source.
        """
        return {
            **({} if self._measured_from < 0 else {"measured_from": self._measured_from}),
            "submaps": self._submaps,
            "parts": self._part + 1,
            "refined": self._refined,
            "refused": self._frames - self._refined,
        }

    def close(self) -> None:
        """Close the file."""
        self._file.close()
