"""Loops: noticing that a stream is where it has been before, and how the two visits lie to each other.

The camera token of a place's first frame says which earlier places look alike; it proposes, it proves nothing. As proof the
network sees three frames of both places in one causal clip, once in either order, and the frames of each place are aligned
with the images of the other. Each half of the clip is the beginning of a submap in another world, so it links that world to
the submap, and the two links together are the loop. There are four of them, of two orders and with one or the other half
aligned; a loop is accepted when they agree and the images do. Wrong loops cost more than missed ones, so both are asked for
sharply.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import numpy as np
from scipy.spatial.transform import Rotation

from ivggt_jax.mapping.halves import AlignedHalves, align_halves
from ivggt_jax.mapping.places import FRAMES, Place, Places
from ivggt_jax.model.parameters import Model
from ivggt_jax.streaming.steps import infer_clip
from ivggt_jax.transforms import Similarity, rotation_angle

Verdict = Literal["accepted", "overlap", "image", "agreement", "unusable"]
"""Whether a loop was accepted, or why not. `overlap`: the places show too little in common; `image`: that is not alike;
`agreement`: the ways to see the loop contradict each other; `unusable`: something was not finite."""
_WORST = 1e3
"""Stands for a difference that is not finite."""


@dataclass(frozen=True)
class LoopConfig:
    """When two places are compared, and when they are the same. The limits were chosen to let no wrong loop pass."""

    candidates: int = 2
    """Most places that a new one is compared with."""
    apart: int = 3
    """A place is compared with those at least so many submaps ago."""
    likeness: float = 0.0
    """Least cosine of two descriptors, the mean of all taken off."""
    overlap: float = 0.3
    """Least share of either place that the other's frames show."""
    correlation: float = 0.6
    """Least correlation of the images where depth and pose put them: the mean over frames, in both orders."""
    detail: float = 0.35
    """The same of the images without their broad shades, by which all corridors are alike."""
    turn: float = 5.0
    """Most degrees between the four ways to see a loop."""
    shift: float = 0.12
    """Most distance between them, as a share of the median depth."""
    stretch: float = 0.1
    """Most difference between the logarithms of their scales."""


class Scores(NamedTuple):
    """What is known of a pair of places; see `LoopConfig` for each."""

    likeness: float
    overlap: float = 0.0
    correlation: float = -1.0
    detail: float = -1.0
    turn: float = 180.0
    shift: float = _WORST
    stretch: float = _WORST


@dataclass(frozen=True, eq=False)
class Proof:
    """Two places that were compared."""

    a: int
    """The earlier submap."""
    b: int
    a_from_b: Similarity
    """The mean of the ways to see it; the identity where there is none."""
    scores: Scores
    verdict: Verdict


class LoopFinder:
    """Compares each new place with the earlier ones most like it, a fixed number at most, and remembers it."""

    def __init__(self, model: Model, places: Places, config: LoopConfig | None = None):
        self._model, self._places, self._config = model, places, config or LoopConfig()

    def visit(self, place: Place) -> list[Proof]:
        """Every pair that was compared with this place. Raises what `Places.add` does."""
        found = [
            prove(self._model, self._places.read(submap), place, likeness, self._config)
            for submap, likeness in propose(place, self._places, self._config)
        ]
        self._places.add(place)
        return found


def propose(place: Place, places: Places, config: LoopConfig) -> list[tuple[int, float]]:
    """Submaps that a place may have returned to, and their likeness, the best first."""
    descriptors = np.concatenate((places.descriptors, place.descriptor[None])).astype(np.float64)
    descriptors -= descriptors.mean(axis=0)
    lengths = np.linalg.norm(descriptors, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        likeness = descriptors[:-1] @ descriptors[-1] / (lengths[:-1] * lengths[-1])
    possible = (places.submaps <= place.submap - config.apart) & (likeness >= config.likeness)
    best = np.flatnonzero(possible)[np.argsort(-likeness[possible], kind="stable")][: config.candidates]
    return [(int(places.submaps[i]), float(likeness[i])) for i in best]


def prove(model: Model, a: Place, b: Place, likeness: float, config: LoopConfig | None = None) -> Proof:
    """Compares two places; a is the earlier one. Whatever the network predicts, the result is finite."""
    config = config or LoopConfig()
    ways: list[Similarity] = []
    scores = Scores(likeness, overlap=1.0, correlation=1.0, detail=1.0)
    for first, second in ((a, b), (b, a)):
        images = np.concatenate((first.images, second.images))
        predictions = infer_clip(model, images[None], "causal", heads=("camera", "depth"))
        assert predictions.pose_encoding is not None
        assert predictions.depth is not None
        halves = jax.device_get(align_halves(images, predictions.pose_encoding[0], predictions.depth[0]))
        found = _ways(first, second, halves)
        if found is None:
            return Proof(a.submap, b.submap, Similarity(), Scores(likeness), "unusable")
        ways += found if first is a else [way.inverse() for way in found]
        scores = _worse(scores, halves)._replace(**_differences(ways, float(np.median(a.depth))))
        verdict = judge(scores, config)
        if verdict != "accepted":
            break  # the other order cannot save it
    return Proof(a.submap, b.submap, _mean(ways), scores, verdict)


def judge(scores: Scores, config: LoopConfig) -> Verdict:
    """What the scores of a pair say."""
    if scores.overlap < config.overlap:
        return "overlap"
    if scores.correlation < config.correlation or scores.detail < config.detail:
        return "image"
    if scores.turn > config.turn or scores.shift > config.shift or scores.stretch > config.stretch:
        return "agreement"
    return "accepted"


def count_verdicts(proofs: list[Proof]) -> dict[str, int]:
    """How many pairs got which verdict, for `run.json`."""
    return dict(sorted(Counter(proof.verdict for proof in proofs).items()))


def _ways(first: Place, second: Place, halves: AlignedHalves) -> list[Similarity] | None:
    """first_from_second, twice: with the first half aligned, and with the second. None where something is not finite."""
    given, aligned, depth = (np.asarray(x, np.float64) for x in (halves.world_from_cam, halves.aligned, halves.depth))
    one, other = slice(0, FRAMES), slice(FRAMES, 2 * FRAMES)
    ways = []
    for poses, others in ((aligned, given), (given, aligned)):
        ends = _link(first, poses[one], depth[one]), _link(second, others[other], depth[other])
        if ends[0] is None or ends[1] is None:
            return None
        ways.append(ends[0].after(ends[1].inverse()))
    return ways


def _link(place: Place, world_from_cam: np.ndarray, depth: np.ndarray) -> Similarity | None:
    """submap_from_world of a world in which the place's frames have these cameras [FRAMES,3,4] and this depth.

    The scale is the median ratio of depths, rotation and translation are means over the frames. None where too much is
    not finite or depth not positive.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(place.depth.astype(np.float64)) - np.log(depth)
    known = np.isfinite(ratio)
    if known.mean() < 0.5 or not (np.isfinite(world_from_cam).all() and np.isfinite(place.submap_from_cam).all()):
        return None
    scale = float(np.exp(np.median(ratio[known])))
    turns = place.submap_from_cam[:, :, :3] @ world_from_cam[:, :, :3].swapaxes(1, 2)
    rotation = Rotation.from_matrix(turns).mean().as_matrix()
    middle, other = place.submap_from_cam[:, :, 3].mean(axis=0), world_from_cam[:, :, 3].mean(axis=0)
    return Similarity(scale, rotation, middle - scale * rotation @ other)


def _worse(scores: Scores, halves: AlignedHalves) -> Scores:
    """The scores, or those of another order where they are lower."""
    return scores._replace(
        overlap=min(scores.overlap, float(halves.overlap.min())),
        correlation=min(scores.correlation, float(halves.correlation.mean())),
        detail=min(scores.detail, float(halves.detail.mean())),
    )


def _differences(ways: list[Similarity], depth: float) -> dict[str, float]:
    """The largest differences between any two similarities a_from_b; lengths in a's `depth`."""
    pairs = [(one, other) for i, one in enumerate(ways) for other in ways[i + 1 :]]
    return {
        "turn": max(float(np.degrees(rotation_angle(one.rotation.T @ other.rotation))) for one, other in pairs),
        "shift": max(float(np.linalg.norm(one.translation - other.translation)) for one, other in pairs) / depth,
        "stretch": max(abs(float(np.log(one.scale / other.scale))) for one, other in pairs),
    }


def _mean(ways: list[Similarity]) -> Similarity:
    rotation = Rotation.from_matrix(np.stack([way.rotation for way in ways])).mean().as_matrix()
    scale = float(np.exp(np.mean([np.log(way.scale) for way in ways])))
    return Similarity(scale, rotation, np.mean([way.translation for way in ways], axis=0))
