"""The pose graph: where every submap lies in the world, given the links of the chain and the loops across it.

Nodes are similarities world_from_submap. Each submap is linked to the one before it, unless a new part of the map began
there, and loops join any two. The graph is solved with GTSAM: `BetweenFactorSimilarity3`, Levenberg-Marquardt, and for
the loops graduated non-convexity with truncated least squares (Yang et al., RA-L 2020, arXiv 1909.08605).

A robust solver is no guard against a wrong loop that nothing contradicts: a long chain bends to whatever it is told. So a
loop counts only where the chain could have drifted so far, and where a second loop beside it agrees, unless it hardly
moves anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import gtsam
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ivggt_jax.transforms import Similarity, rotation_angle

Verdict = Literal["kept", "implausible", "alone", "outvoted"]
"""What became of a loop. `implausible`: the chain cannot have drifted so far; `alone`: it moves the map far and no loop
near it agrees; `outvoted`: the others contradict it."""


@dataclass(frozen=True)
class GraphConfig:
    """How much links and loops are trusted. Angles in radians, lengths in a submap's unit, scales as logarithms."""

    link_rotation: float = 0.03
    link_translation: float = 0.1
    """Of the link's length, beside `loop_translation` / 4 in any case."""
    link_scale: float = 0.03
    loop_rotation: float = 0.1
    loop_translation: float = 0.15
    loop_scale: float = 0.06
    inlier: float = 0.99
    """Share of true loops that the noise above explains."""
    drift: float = 0.35
    """Most that a chain drifts: translation as a share of its length, rotation of all its turning."""
    drift_scale: float = 0.12
    """The same of the scale, times the square root of the number of links."""
    neighbours: int = 8
    """Two loops can agree when both their ends are at most so many links apart."""
    agreement: float = 2.0
    """In standard deviations of what lies between two loops: they agree when they differ by less."""
    near: float = 2.0
    """A loop that moves its submaps by less than so many times its own noise needs no second one."""


@dataclass(frozen=True)
class Loop:
    """Two submaps that saw the same place."""

    a: int
    b: int
    a_from_b: Similarity
    noise: float = 1.0
    """How much less sure it is than loops usually are: a multiple of the noise in `GraphConfig`."""


@dataclass(frozen=True, eq=False)
class Solution:
    """The corrected map."""

    nodes: list[Similarity]
    """world_from_submap"""
    verdicts: list[Verdict]
    """Of each loop."""
    residual_before: float
    """Root mean square, in units of their noise, by which kept loops disagree with the chain."""
    residual_after: float
    """The same with the corrected submaps."""


@dataclass(frozen=True, eq=False)
class Gap:
    """What is left between two ways to say the same similarity: angle in radians, length, logarithm of a scale."""

    rotation: float
    translation: float
    scale: float

    @classmethod
    def of(cls, one: Similarity, other: Similarity) -> "Gap":
        """Of two similarities a_from_b; the length is in a's unit."""
        angle = rotation_angle(one.rotation.T @ other.rotation)
        shift = np.linalg.norm(one.translation - other.translation)
        return cls(float(angle), float(shift), float(abs(np.log(one.scale / other.scale))))

    def times(self, factor: float) -> "Gap":
        """All three multiplied."""
        return Gap(factor * self.rotation, factor * self.translation, factor * self.scale)

    def within(self, most: "Gap") -> bool:
        """Whether nothing is larger than in `most`; not, where anything is not finite."""
        return bool(
            self.rotation <= most.rotation and self.translation <= most.translation and self.scale <= most.scale
        )


def solve(
    chain: Sequence[Similarity], parts: Sequence[int], loops: Sequence[Loop], config: GraphConfig | None = None
) -> Solution:
    """The map that agrees best with its links and its loops.

    `chain` are the submaps as they were placed one after the other, `parts` the number of the map part that each belongs
    to; the first submap of each part, and of parts that loops have joined, stays where it is. Raises ValueError for a
    loop between submaps that do not exist.
    """
    config = config or GraphConfig()
    for loop in loops:
        if not 0 <= loop.a < loop.b < len(chain):
            raise ValueError(f"a loop joins submaps {loop.a} and {loop.b} of {len(chain)}")
    judge = _Judge(chain, parts, loops, config)
    verdicts = judge.verdicts()
    trusted = [i for i, verdict in enumerate(verdicts) if verdict == "kept"]
    nodes = list(chain)
    if trusted:
        nodes, weights = _optimise(chain, parts, [loops[i] for i in trusted], config)
        for i, weight in zip(trusted, weights, strict=True):
            if weight < 0.5:
                verdicts[i] = "outvoted"
    kept = [loop for loop, verdict in zip(loops, verdicts, strict=True) if verdict == "kept"]
    return Solution(nodes, verdicts, _residual(chain, kept, config), _residual(nodes, kept, config))


class _Judge:
    """Which loops may count at all."""

    def __init__(self, chain: Sequence[Similarity], parts: Sequence[int], loops: Sequence[Loop], config: GraphConfig):
        self._chain, self._parts, self._loops, self._config = chain, parts, loops, config
        steps = [one.inverse().after(other) for one, other in zip(chain, chain[1:], strict=False)]
        gaps = [Gap.of(Similarity(), step) for step in steps]
        self._turned = np.cumsum([0.0, *(gap.rotation for gap in gaps)])
        # In the world's unit, so that lengths of submaps add up.
        self._walked = np.cumsum([0.0, *(gap.translation * one.scale for gap, one in zip(gaps, chain, strict=False))])

    def verdicts(self) -> list[Verdict]:
        """Kept, as far as the chain and the other loops say."""
        plausible = [self._plausible(loop) for loop in self._loops]
        believed = [loop for loop, fine in zip(self._loops, plausible, strict=True) if fine]
        found: list[Verdict] = []
        for loop, fine in zip(self._loops, plausible, strict=True):
            supported = fine and (self._moves_little(loop) or any(self._agree(loop, other) for other in believed))
            found.append("implausible" if not fine else "kept" if supported else "alone")
        return found

    def _plausible(self, loop: Loop) -> bool:
        """Whether the chain can have drifted as far as the loop says; nothing is known between parts."""
        if self._parts[loop.a] != self._parts[loop.b]:
            return True
        config, (turned, walked) = self._config, self._way(loop.a, loop.b, self._chain[loop.a].scale)
        most = Gap(
            2 * config.loop_rotation + config.drift * turned,
            2 * config.loop_translation + config.drift * walked,
            2 * config.loop_scale + config.drift_scale * (loop.b - loop.a) ** 0.5,
        )
        return self._gap(loop).within(most)

    def _moves_little(self, loop: Loop) -> bool:
        config = self._config
        noise = Gap(config.loop_rotation, config.loop_translation, config.loop_scale)
        return self._parts[loop.a] == self._parts[loop.b] and self._gap(loop).within(noise.times(config.near))

    def _agree(self, one: Loop, other: Loop) -> bool:
        """Whether two loops, from one neighbourhood to another, say the same of them."""
        ends = ((one.a, other.a), (one.b, other.b))
        if (one.a, one.b) == (other.a, other.b):
            return False
        if any(abs(i - j) > self._config.neighbours or self._parts[i] != self._parts[j] for i, j in ends):
            return False
        there, back = (self._chain[i].inverse().after(self._chain[j]) for i, j in ends)
        around = there.after(other.a_from_b).after(back.inverse())
        return Gap.of(one.a_from_b, around).within(self._noise_around(ends).times(self._config.agreement))

    def _noise_around(self, ends: Sequence[tuple[int, int]]) -> Gap:
        """Standard deviation of the way along one loop, a piece of the chain, another loop, and a piece back."""
        config = self._config
        links = sum(abs(i - j) for i, j in ends)
        walked = sum(self._way(i, j, self._chain[ends[0][0]].scale)[1] for i, j in ends)
        rotation = np.sqrt(2 * config.loop_rotation**2 + links * config.link_rotation**2)
        # What one loop says of the other's place is turned by its own wrong rotation.
        parts = (config.loop_translation, config.loop_translation, config.link_translation * walked, rotation * walked)
        scale = np.sqrt(2 * config.loop_scale**2 + links * config.link_scale**2)
        return Gap(float(rotation), float(np.linalg.norm(parts)), float(scale))

    def _gap(self, loop: Loop) -> Gap:
        return Gap.of(loop.a_from_b, self._chain[loop.a].inverse().after(self._chain[loop.b]))

    def _way(self, i: int, j: int, unit: float) -> tuple[float, float]:
        """How much the chain turns from one submap to another, and how long it is in a `unit` of the world."""
        return abs(self._turned[i] - self._turned[j]), abs(self._walked[i] - self._walked[j]) / unit


def _optimise(
    chain: Sequence[Similarity], parts: Sequence[int], loops: Sequence[Loop], config: GraphConfig
) -> tuple[list[Similarity], list[float]]:
    """The nodes, and the weight, 0 to 1, that each loop ended with."""
    start, anchored = _joined(chain, parts, loops)
    values, graph = gtsam.Values(), gtsam.NonlinearFactorGraph()
    fixed = gtsam.noiseModel.Isotropic.Sigma(7, 1e-6)
    for i, node in enumerate(start):
        values.insert(i, _to_gtsam(node))
        if i in anchored:
            graph.add(gtsam.PriorFactorSimilarity3(i, _to_gtsam(node), fixed))
    for i in range(1, len(chain)):
        if parts[i] == parts[i - 1]:
            graph.add(_link_factor(i - 1, chain[i - 1].inverse().after(chain[i]), config))
    links = graph.size()
    for loop in loops:
        turn, shift, scale = (
            loop.noise * x for x in (config.loop_rotation, config.loop_translation, config.loop_scale)
        )
        noise = _noise(turn, shift / loop.a_from_b.scale, scale)
        graph.add(gtsam.BetweenFactorSimilarity3(loop.a, loop.b, _to_gtsam(loop.a_from_b), noise))
    params = gtsam.GncLMParams(gtsam.LevenbergMarquardtParams())
    params.setKnownInliers(list(range(links)))
    optimizer = gtsam.GncLMOptimizer(graph, values, params)
    optimizer.setInlierCostThresholdsAtProbability(config.inlier)
    solved = optimizer.optimize()
    nodes = [_from_gtsam(solved.atSimilarity3(i)) for i in range(len(chain))]
    return nodes, list(optimizer.getWeights()[links:])


def _link_factor(i: int, link: Similarity, config: GraphConfig) -> gtsam.NonlinearFactor:
    length = float(np.linalg.norm(link.translation))
    translation = np.hypot(config.link_translation * length, config.loop_translation / 4) / link.scale
    noise = _noise(config.link_rotation, float(translation), config.link_scale)
    return gtsam.BetweenFactorSimilarity3(i, i + 1, _to_gtsam(link), noise)


def _noise(rotation: float, translation: float, scale: float) -> gtsam.noiseModel.Diagonal:
    return gtsam.noiseModel.Diagonal.Sigmas(np.array([rotation] * 3 + [translation] * 3 + [scale]))


def _joined(
    chain: Sequence[Similarity], parts: Sequence[int], loops: Sequence[Loop]
) -> tuple[list[Similarity], set[int]]:
    """Parts that loops join, moved onto each other, and the first node of everything that then hangs together."""
    numbers = np.unique(parts, return_inverse=True)[1]
    between = [loop for loop in loops if parts[loop.a] != parts[loop.b]]
    pairs = np.array([[numbers[loop.a], numbers[loop.b]] for loop in between]).reshape(-1, 2).T
    size = int(numbers.max()) + 1
    _, group = connected_components(coo_matrix((np.ones(len(between)), tuple(pairs)), (size, size)), directed=False)
    moves: dict[int, Similarity] = {}
    anchored = set()
    for i, part in enumerate(numbers):
        if not any(group[other] == group[part] for other in moves):
            moves[int(part)] = Similarity()
            anchored.add(i)
    while missing := [loop for loop in between if (numbers[loop.a] in moves) != (numbers[loop.b] in moves)]:
        loop = missing[0]
        a, b = int(numbers[loop.a]), int(numbers[loop.b])
        if a in moves:
            moves[b] = moves[a].after(chain[loop.a]).after(loop.a_from_b).after(chain[loop.b].inverse())
        else:
            moves[a] = moves[b].after(chain[loop.b]).after(loop.a_from_b.inverse()).after(chain[loop.a].inverse())
    return [moves[int(part)].after(node) for part, node in zip(numbers, chain, strict=True)], anchored


def _residual(nodes: Sequence[Similarity], loops: Sequence[Loop], config: GraphConfig) -> float:
    if not loops:
        return 0.0
    gaps = [Gap.of(loop.a_from_b, nodes[loop.a].inverse().after(nodes[loop.b])) for loop in loops]
    noise = np.array([config.loop_rotation, config.loop_translation, config.loop_scale])
    whitened = np.array([[gap.rotation, gap.translation, gap.scale] for gap in gaps]) / noise
    whitened /= np.array([[loop.noise] for loop in loops])
    return float(np.sqrt(np.mean(np.sum(whitened**2, axis=1) / 7)))


def _to_gtsam(similarity: Similarity) -> gtsam.Similarity3:
    """GTSAM adds the translation before it scales."""
    translation = similarity.translation / similarity.scale
    return gtsam.Similarity3(gtsam.Rot3(similarity.rotation), translation, similarity.scale)


def _from_gtsam(found: gtsam.Similarity3) -> Similarity:
    return Similarity(found.scale(), found.rotation().matrix(), found.scale() * found.translation())
