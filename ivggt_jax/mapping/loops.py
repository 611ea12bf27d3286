"""Loops: detects that a stream has returned to a place, and how the two visits lie relative to each other.

The camera token of a place's first frame proposes earlier places that look alike; it proves nothing. The proof is a similarity
transform that many matching corners, compared independently of lighting, agree with (`registration`). All places share one focal
length: the median of the predictions so far.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from ivggt_jax.mapping.places import Place, Places
from ivggt_jax.mapping.registration import register
from ivggt_jax.transforms import Similarity

Verdict = Literal["accepted", "matches", "support"]
"""Verdict on a pair of places: accepted, or why not. `matches`: too few corners match; `support`: too few matches agree on how
the places lie to each other."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class LoopConfig:
    """When two places are compared, and when they count as the same."""

    candidates: int = 4
    """Most earlier places that a new one is compared with."""
    apart: int = 6
    """Within a part of the map, a place is compared only with places at least this many submaps ago, because over a short distance
    the chain is better than a loop. Places of other parts may be of any age, because no chain joins them to it."""
    support: int = 24
    """Least support of an accepted loop: image squares, 6 of 112 pixels wide, in which corners agree. Wrong pairs reached 19 on
    the streets and corridors it was chosen on, true ones up to 84 in other light (docs/mapping.md)."""


class Scores(NamedTuple):
    """Scores of a pair of places."""

    likeness: float
    """Cosine of the two descriptors, after subtracting the mean of all descriptors."""
    matches: int = 0
    """Number of matching corners."""
    support: int = 0
    """Image squares in which they agree (`registration.Registration.support`)."""
    error: float = 0.0
    """Median reprojection error of the agreeing corners, in pixels of an image 112 wide."""


@dataclass(frozen=True, eq=False)
class Proof:
    """The result of comparing two places."""

    a: int
    """The earlier submap."""
    b: int
    a_from_b: Similarity
    """The identity if no transform was found."""
    scores: Scores
    verdict: Verdict


def visit(place: Place, places: Places, config: LoopConfig) -> list[Proof]:
    """Compare a new place with the most similar earlier ones, at most a fixed number, and store it.

    Returns all compared pairs. Raises what `Places.add` does.
    """
    focal = float(np.median([*places.focals, float(place.focal)]))
    found = [
        prove(places.read(submap), place, likeness, focal, config)
        for submap, likeness in propose(place, places, config)
    ]
    places.add(place)
    return found


def propose(place: Place, places: Places, config: LoopConfig) -> list[tuple[int, float]]:
    """Earlier submaps that may show the same place, and their likeness, the most similar first."""
    descriptors = np.concatenate((places.descriptors, place.descriptor[None])).astype(np.float64)
    descriptors -= descriptors.mean(axis=0)
    lengths = np.linalg.norm(descriptors, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        likeness = descriptors[:-1] @ descriptors[-1] / (lengths[:-1] * lengths[-1])
    possible = (places.submaps <= place.submap - config.apart) | (places.parts != place.part)
    possible &= np.isfinite(likeness)
    best = np.flatnonzero(possible)[np.argsort(-likeness[possible], kind="stable")][: config.candidates]
    return [(int(places.submaps[i]), float(likeness[i])) for i in best]


def prove(a: Place, b: Place, likeness: float, focal: float, config: LoopConfig) -> Proof:
    """Compare two places; a is the earlier one. `focal` is in image widths. The result is always finite."""
    found = register(a, b, focal)
    if found is None:
        return Proof(a.submap, b.submap, Similarity(), Scores(likeness), "matches")
    scores = Scores(likeness, found.matches, found.support, found.error)
    verdict: Verdict = "accepted" if found.support >= config.support else "support"
    return Proof(a.submap, b.submap, found.a_from_b, scores, verdict)
