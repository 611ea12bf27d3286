"""`loops.txt`: pairs of places that were compared during the stream, and which of them are the same.

The places themselves are in `places.bin` next to it. The effect of the loops on the map is computed when all are known
(`mapping.correction`).
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.mapping.loops import VERDICTS, LoopConfig, visit
from ivggt_jax.mapping.map_files import LOOP_COLUMNS, LOOPS_FILE, loop_line
from ivggt_jax.mapping.places import Places, place_type
from ivggt_jax.mapping.visits import PlaceMaker
from ivggt_jax.writers.files import LineFile, naming
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer, required

PLACES_FILE = "places.bin"


class LoopsWriter(Writer):
    """Compares each new place of the stream with earlier ones, and appends a line to `loops.txt` for every pair."""

    name = "loops"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._path = out / PLACES_FILE
        self._verdicts = dict(zip(VERDICTS, state.get("verdicts", [0] * len(VERDICTS)), strict=True))
        self._seen = int(state.get("seen", 0))
        self._file = LineFile(
            out / LOOPS_FILE, sum(self._verdicts.values()), f"# {LOOP_COLUMNS} (a from b, OpenCV axes)"
        )
        self._maker = PlaceMaker(state)
        self._channels = int(state.get("channels", 0))
        self._places: Places | None = None
        if self._channels:
            self._open()
        else:
            with naming(self._path):
                self._path.unlink(missing_ok=True)

    def write(self, result: Result) -> None:
        """Add the frame to a place, and compare the place when it is complete."""
        if result.map is None:
            raise ValueError("loops.txt needs a run with submaps")
        frame, focal = result.frame, result.intrinsics.diagonal()[:2] / result.frame.image.shape[1]
        depth, mask = required(result.depth, "loops.txt", "depth"), frame.mask
        if result.moving is not None:
            # Moving things do not identify a place, but do not cover the same part of every image either.
            depth = np.where(result.moving, np.float32(0), depth)
            mask = None if mask is None else mask | result.moving
        place = self._maker.feed(frame.image, depth, result.world_from_cam, focal, result.map, mask)
        if place is None:
            return
        self._channels = len(place.descriptor)
        places = self._places or self._open()
        with naming(self._path):
            proofs = visit(place, places, LoopConfig())
        self._seen += 1
        for proof in proofs:
            self._file.append(loop_line(proof))
            self._verdicts[proof.verdict] += 1

    def state(self) -> dict[str, np.ndarray]:
        """The pending data, and the length of each file."""
        counts = {"seen": self._seen, "channels": self._channels, "verdicts": list(self._verdicts.values())}
        return self._maker.state() | {name: np.array(count) for name, count in counts.items()}

    def record(self) -> dict[str, Any]:
        """Places seen and kept; compared pairs, by verdict."""
        places = self._places.report() if self._places else {"seen": 0, "kept": 0, "every": 1}
        return {"places": places, "pairs": {name: int(count) for name, count in self._verdicts.items()}}

    def close(self) -> None:
        """Close both files."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._file.close)
            if self._places:
                stack.callback(self._places.close)

    def _open(self) -> Places:
        with naming(self._path):
            self._places = Places(self._path, place_type(self._channels), self._seen)
        return self._places
