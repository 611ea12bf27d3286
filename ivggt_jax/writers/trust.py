"""How far the images confirm a run's cameras, stretch by stretch: `trust` in `run.json`.

A network gives cameras for whatever it sees. With submaps each pose is checked against the images themselves, so how many could be
refined, how well details agree, how far the two depths of a link spread, and where a new part of the map began, say where not
to believe it. They say nothing of depth where the camera only turns, and nothing of the scene's scale.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ivggt_jax.mapping.state import MapRecord

LENGTH = 100
"""Frames of a stretch, at first."""
MOST = 128
"""Stretches; beyond, two become one, so that an endless run's record stays small."""
LEAST_REFINED = 0.5
"""Share of poses that images confirm: nearly all on a walk, hardly any in noise (tests/test_trust.py); half tells them apart."""
FEWEST = 16
"""Frames by which a stretch is judged."""


class Trust:
    """Watches frames; a resumed run gives the `state()` that was saved."""

    def __init__(self, state: Mapping[str, np.ndarray]):
        self._length = int(state.get("length", LENGTH))
        self._sums: np.ndarray = state.get("sums", np.zeros((0, 4)))
        self._part = int(state.get("part", 0))
        self._frames = int(state.get("frames", 0))

    def add(self, seen: MapRecord | None) -> None:
        """Counts the next frame; None in a run without submaps, which nothing is said of."""
        if seen is None:
            return
        if self._frames == self._length * MOST:
            self._sums = self._sums[::2] + self._sums[1::2]
            self._length *= 2
        if self._frames % self._length == 0:
            self._sums = np.concatenate((self._sums, np.zeros((1, 4))))
        parts = int(seen.part) - self._part
        self._sums[-1] += (bool(seen.refined), float(seen.agreement), float(seen.link_spread), parts)
        self._part += parts
        self._frames += 1

    def record(self) -> list[dict[str, Any]]:
        """Each stretch: its frames, the share of refined poses, the mean agreement of details and spread of links' depth ratios
        (its logarithm's standard deviation), and the parts of the map that began in it."""
        found = []
        for first, (refined, agreement, spread, parts) in zip(self._begins(), self._sums.tolist(), strict=True):
            count = min(self._length, self._frames - first)
            means = {"refined": refined / count, "agreement": agreement / count, "link_spread": spread / count}
            found.append({"frames": [first, first + count - 1], **means, "parts_begun": int(parts)})
        return found

    def doubt(self) -> str | None:
        """Where the images do not confirm the camera, in a sentence; None where they do."""
        judged = [x for x in self.record() if x["frames"][1] - x["frames"][0] + 1 >= FEWEST]
        doubted = [x for x in judged if x["refined"] < LEAST_REFINED]
        if not doubted:
            return None
        first, last = doubted[0]["frames"]
        return (
            f"the images do not confirm the camera in {len(doubted)} of {len(judged)} stretches of {self._length} frames, "
            f"first in frames {first} to {last} (trust in run.json)"
        )

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed run needs to come to the same end."""
        counts = {"length": self._length, "part": self._part, "frames": self._frames}
        return {"sums": self._sums.copy(), **{name: np.array(count) for name, count in counts.items()}}

    def _begins(self) -> range:
        return range(0, self._frames, self._length)
