"""`submaps.txt`: how the map is put together, one line a submap, written when its first frame is finished.

    id part first scale tx ty tz qx qy qz qw share spread

Submaps are numbered from 0 and lie in the part of the map with number `part`, from 0; between two parts nothing is known.
`first` is the frame, counted from 0 like the lines of `trajectory.txt`, with which the submap begins. The similarity is
world_from_submap as it was known then: a point x of the submap lies at scale · R(q) · x + t, OpenCV axes. `share` and `spread`
say how good the link to the submap before is: the share of usable pixels, and the spread of the logarithm of the ratio of
their depths. The first submap of a part has no link: 0 0.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ivggt_jax.writers.files import LineFile
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer

SUBMAPS_FILE = "submaps.txt"
COLUMNS = "id part first scale tx ty tz qx qy qz qw share spread"


class SubmapsWriter(Writer):
    """Appends a line to `submaps.txt` for every submap."""

    name = "submaps"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._frames = frames
        self._refined = int(state.get("refined", 0))
        self._submaps = int(state.get("submaps", 0))
        self._part = int(state.get("part", 0))
        self._file = LineFile(out / SUBMAPS_FILE, self._submaps, f"{COLUMNS} (world from submap, OpenCV axes)")

    def write(self, result: Result) -> None:
        """Appends a line when a new submap has begun."""
        record = result.map
        if record is None:
            raise ValueError("submaps.txt needs a run with submaps")
        if record.submap == self._submaps:
            placed = record.world_from_submap
            quaternion = Rotation.from_matrix(np.asarray(placed.rotation, np.float64)).as_quat(canonical=True)
            numbers = (placed.scale, *placed.translation, *quaternion, record.link_share, record.link_spread)
            text = " ".join(f"{float(number):.9g}" for number in numbers)
            self._file.append(f"{self._submaps} {int(record.part)} {self._frames} {text}")
            self._submaps, self._part = self._submaps + 1, int(record.part)
        self._frames += 1
        self._refined += bool(record.refined)

    def state(self) -> dict[str, np.ndarray]:
        """How many lines there are, and the counts of `record`."""
        counts = {"refined": self._refined, "submaps": self._submaps, "part": self._part}
        return {name: np.array(count) for name, count in counts.items()}

    def record(self) -> dict[str, int]:
        """Submaps and parts of the map; frames whose pose was refined, and whose refinement was refused."""
        return {
            "submaps": self._submaps,
            "parts": self._part + 1,
            "refined": self._refined,
            "refused": self._frames - self._refined,
        }

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
