"""What loops do to a stream's path, and whether they are true; with the same map that `infer --loops` keeps."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from ivggt_jax.mapping.correction import Correction, believed, correct
from ivggt_jax.mapping.judge import Loop
from ivggt_jax.mapping.loops import Proof
from ivggt_jax.mapping.map_files import LOOPS_FILE, SUBMAPS_FILE, Growth, SubmapRecord, read_loops, read_submaps
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.runs.run import make_result
from ivggt_jax.sources.frame import Fit, Frame
from ivggt_jax.transforms import Similarity, rotation_angle
from ivggt_jax.writers import ExportOptions, Writers

MOST_TURN, MOST_SHIFT = 20.0, 1.5
"""Largest error of a true loop in degrees and metres, of which 15 and 1 were seen; any other loop counts as false."""


@dataclass(frozen=True, eq=False)
class Loops:
    """The result of one stream's loops."""

    corrected: np.ndarray
    """float64 [S,3,4]: world_from_cam in the corrected map."""
    scales: np.ndarray
    """float64 [S]: factor for depth in that map."""
    accepted: int
    """Pairs of places that were accepted as the same."""
    kept: int
    """Pairs that the graph kept."""
    false: int
    """Kept pairs that are false."""


class MapFollower:
    """Keeps the map of one stream, in a temporary folder."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ivggt_jax_")
        self._path = Path(self._folder.name)
        self._writers = Writers(["submaps", "loops"], self._path, ExportOptions())
        self._frames = 0

    def add(self, images: np.ndarray, predictions: Predictions) -> None:
        """Add the next frames uint8 [T,H,W,3] and their predictions on the host, [T,…]."""
        height, width = images.shape[1:3]
        fit = Fit((width, height), (1.0, 1.0), (0.0, 0.0))
        for i, image in enumerate(images):
            frame = Frame(image=image, index=self._frames, timestamp=None, name=str(self._frames), fit=fit)
            self._writers.write(make_result(frame, jax.tree.map(lambda x, i=i: x[i], predictions), False))
            self._frames += 1

    def finish(self) -> "Map":
        """The map of all added frames."""
        self._writers.close()
        submaps, proofs = read_submaps(self._path / SUBMAPS_FILE), read_loops(self._path / LOOPS_FILE)
        self._folder.cleanup()
        return Map(submaps, proofs, correct(submaps, proofs))


@dataclass(frozen=True, eq=False)
class Map:
    """A stream's submaps, the compared pairs of places, and the solution of its graph."""

    submaps: list[SubmapRecord]
    proofs: list[Proof]
    correction: Correction

    def moves(self, found: np.ndarray) -> list[Similarity]:
        """The move of each frame, with predicted cameras [S,3,4] (world_from_cam), to its place in the corrected map."""
        growth = next((record.growth for record in self.submaps if record.growth), Growth(0, 1.0))
        units = [growth.move(i) for i in range(len(found))]
        return [self.correction(i, unit.poses(found[i])).after(unit) for i, unit in enumerate(units)]

    def loops(self, found: np.ndarray, truth: np.ndarray, metres: np.ndarray) -> Loops:
        """The result of the loops, given predicted and true cameras [S,3,4] (world_from_cam).

        `metres` [S] is the unit of the predicted world at each frame.
        """
        accepted = [believed(proof) for proof in self.proofs if proof.verdict == "accepted"]
        verdicts = self.correction.solution.verdicts
        kept = [loop for loop, verdict in zip(accepted, verdicts, strict=True) if verdict == "kept"]
        false = sum(not _is_true(loop, self.submaps, found, truth, metres) for loop in kept)
        moves = self.moves(found)
        corrected = np.stack([move.poses(camera) for move, camera in zip(moves, found, strict=True)])
        return Loops(corrected, np.array([move.scale for move in moves]), len(accepted), len(kept), false)


def _is_true(loop: Loop, submaps: list[SubmapRecord], found: np.ndarray, truth: np.ndarray, metres: np.ndarray) -> bool:
    """Whether the true relative pose of two submaps' first cameras agrees with the loop."""
    a, b = submaps[loop.a], submaps[loop.b]
    if max(a.first, b.first) >= len(truth):
        return True  # beyond the recorded frames
    one, other = (x.world_from_submap.inverse().poses(found[x.first]) for x in (a, b))
    says, is_so = _between(one, loop.a_from_b.poses(other)), _between(truth[a.first], truth[b.first])
    turn = np.degrees(rotation_angle(says[:, :3].T @ is_so[:, :3]))
    unit = metres[a.first] * a.world_from_submap.scale
    return bool(turn < MOST_TURN and np.linalg.norm(unit * says[:, 3] - is_so[:, 3]) < MOST_SHIFT)


def _between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The second camera [3,4] in the frame of the first; both are world_from_cam."""
    return np.asarray(Similarity(1.0, one[:, :3], one[:, 3]).inverse().poses(other))
