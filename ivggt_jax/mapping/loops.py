"""Loops: noticing that a stream is where it has been before, and how the two visits lie to each other.

The camera token of a place's first frame says which earlier places look alike; it proposes, it proves nothing. Proof are corners
that both places show, matched without their light, and a similarity that many of them agree with (`registration`). One
focal length serves all: the median of what was predicted of the places so far.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from ivggt_jax.mapping.places import Place, Places
from ivggt_jax.mapping.registration import register
from ivggt_jax.transforms import Similarity

Verdict = Literal["accepted", "matches", "support"]
"""Whether a loop was accepted, or why not. `matches`: too few corners match to say anything; `support`: too few of those agree
on how the places lie to each other."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class LoopConfig:
    """When two places are compared, and when they are the same."""

    candidates: int = 4
    """Most places that a new one is compared with."""
    apart: int = 6
    """A place is compared with those at least so many submaps ago: the chain is better than a loop where it is short."""
    support: int = 24
    """Squares of the image, 6 pixels of 112 wide, in which corners agree. Wrong pairs reached 19 on the streets and corridors
    that it was chosen on, true ones up to 84 in other light (docs/mapping.md)."""


class Scores(NamedTuple):
    """What is known of a pair of places."""

    likeness: float
    """Cosine of the descriptors, the mean of all taken off."""
    matches: int = 0
    """Corners of one that match corners of the other."""
    support: int = 0
    """Squares of the image in which they agree; `registration.Registration.support`."""
    error: float = 0.0
    """Median distance in the image of those that agree, in pixels of an image 112 wide."""


@dataclass(frozen=True, eq=False)
class Proof:
    """Two places that were compared."""

    a: int
    """The earlier submap."""
    b: int
    a_from_b: Similarity
    """The identity where nothing is known."""
    scores: Scores
    verdict: Verdict


def visit(place: Place, places: Places, config: LoopConfig) -> list[Proof]:
    """Compares a new place with the earlier ones most like it, a fixed number at most, and remembers it.

    Returns every pair that was compared. Raises what `Places.add` does.
    """
    focal = float(np.median([*places.focals, float(place.focal)]))
    found = [
        prove(places.read(submap), place, likeness, focal, config)
        for submap, likeness in propose(place, places, config)
    ]
    places.add(place)
    return found


def propose(place: Place, places: Places, config: LoopConfig) -> list[tuple[int, float]]:
    """Submaps that a place may have returned to, and their likeness, the best first."""
    descriptors = np.concatenate((places.descriptors, place.descriptor[None])).astype(np.float64)
    descriptors -= descriptors.mean(axis=0)
    lengths = np.linalg.norm(descriptors, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        likeness = descriptors[:-1] @ descriptors[-1] / (lengths[:-1] * lengths[-1])
    possible = (places.submaps <= place.submap - config.apart) & np.isfinite(likeness)
    best = np.flatnonzero(possible)[np.argsort(-likeness[possible], kind="stable")][: config.candidates]
    return [(int(places.submaps[i]), float(likeness[i])) for i in best]


def prove(a: Place, b: Place, likeness: float, focal: float, config: LoopConfig) -> Proof:
    """Compares two places; a is the earlier one. `focal` is a length in image widths. The result is finite."""
    found = register(a, b, focal)
    if found is None:
        return Proof(a.submap, b.submap, Similarity(), Scores(likeness), "matches")
    scores = Scores(likeness, found.matches, found.support, found.error)
    verdict: Verdict = "accepted" if found.support >= config.support else "support"
    return Proof(a.submap, b.submap, found.a_from_b, scores, verdict)
