"""How far the images confirm a run's cameras, section by section: `trust` in `run.json`.

A network outputs cameras for any input. With submaps each pose is checked against the images themselves. So the share of refined
poses, the agreement of details, the spread of the two depths of a link, and the places where a new part of the map began show
where not to trust the cameras. They say nothing about depth where the camera only rotates, and nothing about the scene's scale.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ivggt_jax.mapping.state import MapRecord

LENGTH = 100
"""Initial length of a section in frames."""
MOST = 128
"""Most sections; beyond that, pairs are merged, so that an endless run's record stays small."""
LEAST_REFINED = 0.5
"""Share of refined poses below which there is doubt: on a walk nearly all are, in noise hardly any (tests/test_trust.py)."""
FEWEST = 16
"""Fewest frames to judge a section by."""


class Trust:
    """Observes frames; a resumed run passes the saved `state()`."""

    def __init__(self, state: Mapping[str, np.ndarray]):
        self._length = int(state.get("length", LENGTH))
        self._sums: np.ndarray = state.get("sums", np.zeros((0, 4)))
        self._indices: np.ndarray = state.get("indices", np.zeros((0, 2), np.int64))
        self._part = int(state.get("part", 0))
        self._frames = int(state.get("frames", 0))

    def add(self, index: int, seen: MapRecord | None) -> None:
        """Count the next frame, number `index` in the source; None in a run without submaps, for which there is no record."""
        if seen is None:
            return
        if self._frames == self._length * MOST:
            self._sums = self._sums[::2] + self._sums[1::2]
            self._indices = np.stack((self._indices[::2, 0], self._indices[1::2, 1]), axis=1)
            self._length *= 2
        if self._frames % self._length == 0:
            self._sums = np.concatenate((self._sums, np.zeros((1, 4))))
            self._indices = np.concatenate((self._indices, [(index, index)]))
        parts = int(seen.part) - self._part
        self._indices[-1, 1] = index
        self._sums[-1] += (bool(seen.refined), float(seen.agreement), float(seen.link_spread), parts)
        self._part += parts
        self._frames += 1

    def record(self) -> list[dict[str, Any]]:
        """Each section: its first and last frame, by their numbers in the source, the share of refined poses, the mean agreement
        of details and spread of the links' log depth ratios, and the parts of the map that began in it."""
        found = []
        for frames, count, sums in zip(self._indices.tolist(), self._counts(), self._sums.tolist(), strict=True):
            refined, agreement, spread, parts = sums
            means = {"refined": refined / count, "agreement": agreement / count, "link_spread": spread / count}
            found.append({"frames": frames, **means, "parts_begun": int(parts)})
        return found

    def doubt(self) -> str | None:
        """Where the images do not confirm the camera, in a sentence; None if they do."""
        judged = [x for x, count in zip(self.record(), self._counts(), strict=True) if count >= FEWEST]
        doubted = [x for x in judged if x["refined"] < LEAST_REFINED]
        if not doubted:
            return None
        first, last = doubted[0]["frames"]
        return (
            f"the images do not confirm the camera in {len(doubted)} of {len(judged)} stretches of {self._length} frames, "
            f"first in frames {first} to {last} (trust in run.json)"
        )

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed run needs for the same result."""
        counts = {"length": self._length, "part": self._part, "frames": self._frames}
        arrays = {"sums": self._sums.copy(), "indices": self._indices.copy()}
        return {**arrays, **{name: np.array(count) for name, count in counts.items()}}

    def _counts(self) -> list[int]:
        return [min(self._length, self._frames - first) for first in range(0, self._frames, self._length)]
