"""The corrected map of a run: where its frames are after loops have revealed the drift of the chain of submaps."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from ivggt_jax.mapping.graph import Solution, solve
from ivggt_jax.mapping.judge import Loop
from ivggt_jax.mapping.loops import Proof
from ivggt_jax.mapping.map_files import SubmapRecord
from ivggt_jax.transforms import Similarity

USUAL_SUPPORT = 27
"""Support of a loop that has the noise in `GraphConfig`. On walks in other light, errors fall with about the square of the
support."""
LEAST_AND_MOST_NOISE = (0.25, 1.5)


@dataclass(frozen=True, eq=False)
class Correction:
    """Moves a run's frames from their original to their corrected positions."""

    first: np.ndarray
    """int64 [N]: first frame of each submap."""
    parts: np.ndarray
    """int64 [N]: the part of the map that each submap belongs to."""
    moves: list[Similarity]
    """[N]: the move of each submap's first frame."""
    solution: Solution
    largest_move: float
    """Largest shift of any submap's first frame."""
    begins: list[int]
    """First frames, by their numbers in the source, of the parts that remain when loops have joined others."""

    def __call__(self, frame: int, world_from_cam: np.ndarray) -> Similarity:
        """The move of frame number `frame`, whose camera [3,4] was thought to be at `world_from_cam`, in the map's last unit.

        Between the first frames of two submaps the move is interpolated, so that nothing jumps.
        """
        i = int(np.searchsorted(self.first, frame, side="right")) - 1
        one = self.moves[i]
        if i + 1 == len(self.moves) or self.parts[i + 1] != self.parts[i]:
            return one
        share = (frame - self.first[i]) / (self.first[i + 1] - self.first[i])
        return _between(one, self.moves[i + 1], float(share), world_from_cam)

    def record(self) -> dict[str, Any]:
        """The content of `corrected/map.json`: the number of loops by verdict, and how far they disagreed before and after."""
        solution = self.solution
        return {
            "submaps": len(self.moves),
            "parts": len(set(self.parts.tolist())),
            "parts_begin_after_joining": self.begins,
            "loops": dict(sorted(Counter(solution.verdicts).items())),
            "disagreement_before": solution.residual_before,
            "disagreement_after": solution.residual_after,
            "largest_move": self.largest_move,
        }


def correct(submaps: list[SubmapRecord], proofs: list[Proof]) -> Correction:
    """The map that agrees best with the chain of submaps, at least one, and the accepted pairs of places.

    Raises ValueError when a pair names a submap that does not exist.
    """
    chain, parts = [record.placed for record in submaps], [record.part for record in submaps]
    loops = [believed(proof) for proof in proofs if proof.verdict == "accepted"]
    solution = solve(chain, parts, loops, stretches=_stretches(submaps))
    moves = [after.after(before.inverse()) for after, before in zip(solution.nodes, chain, strict=True)]
    shifts = [after.translation - before.translation for after, before in zip(solution.nodes, chain, strict=True)]
    first = np.array([record.first for record in submaps])
    kept = [(loop.a, loop.b) for loop, verdict in zip(loops, solution.verdicts, strict=True) if verdict == "kept"]
    largest = float(np.linalg.norm(shifts, axis=-1).max())
    begins = _begins(np.array([record.index for record in submaps]), parts, kept)
    return Correction(first, np.array(parts), moves, solution, largest, begins)


def _begins(first: np.ndarray, parts: list[int], joined: list[tuple[int, int]]) -> list[int]:
    """First frames of the groups of submaps that are in one part or joined, given the pairs that loops join."""
    links = [(i, i + 1) for i in range(len(parts) - 1) if parts[i] == parts[i + 1]] + joined
    pairs = np.array(links).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(links)), tuple(pairs)), (len(parts), len(parts)))
    _, groups = connected_components(graph, directed=False)
    return sorted(first[np.unique(groups, return_index=True)[1]].tolist())


def _stretches(submaps: list[SubmapRecord]) -> list[int]:
    """For each submap, the number of cuts before it. At a cut, a new part begins without comparing its submap with the last."""
    cuts = [other.part != one.part and other.share == 0 for one, other in zip(submaps, submaps[1:], strict=False)]
    return np.cumsum([0, *cuts]).tolist()


def believed(proof: Proof) -> Loop:
    """An accepted pair as a loop of the graph; more support means less noise."""
    noise = np.clip((USUAL_SUPPORT / max(1, proof.scores.support)) ** 2, *LEAST_AND_MOST_NOISE)
    return Loop(proof.a, proof.b, proof.a_from_b, float(noise))


def _between(one: Similarity, other: Similarity, share: float, world_from_cam: np.ndarray) -> Similarity:
    """Interpolate between two moves by a share from 0 to 1: linearly in rotation, camera position, and log scale.

    Interpolating the translations would not do, because they depend on the world's origin.
    """
    turn = Rotation.from_matrix(other.rotation @ one.rotation.T).as_rotvec()
    rotation = Rotation.from_rotvec(share * turn).as_matrix() @ one.rotation
    scale = float(one.scale ** (1 - share) * other.scale**share)
    place = world_from_cam[:, 3]
    there = [move.points(place[None])[0] for move in (one, other)]
    return Similarity(scale, rotation, (1 - share) * there[0] + share * there[1] - scale * rotation @ place)
