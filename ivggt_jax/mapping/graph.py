"""The pose graph: where every submap lies in the world, given the links of the chain and the loops across it.

Nodes are similarities world_from_submap. Each submap is linked to the previous one unless a new part of the map begins there, and
loops join any two submaps if `judge` accepts them. GTSAM solves the graph: `BetweenFactorSimilarity3`, Levenberg-Marquardt, and
for the loops graduated non-convexity with truncated least squares (Yang et al., RA-L 2020, arXiv 1909.08605).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import gtsam
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from ivggt_jax.mapping.judge import Gap, GraphConfig, Judge, Loop, Verdict
from ivggt_jax.transforms import Similarity, rotation_angle

TURNING_FACTORS = np.linspace(0.8, 1.25, 46)
"""Factors that are tried on the rotations of a chain; 1 is among them."""


@dataclass(frozen=True, eq=False)
class Solution:
    """The corrected map."""

    nodes: list[Similarity]
    """world_from_submap"""
    verdicts: list[Verdict]
    """The verdict on each loop."""
    residual_before: float
    """Root mean square disagreement of the kept loops with the chain, in units of their noise."""
    residual_after: float
    """The same with the corrected submaps."""


def solve(
    chain: Sequence[Similarity],
    parts: Sequence[int],
    loops: Sequence[Loop],
    config: GraphConfig | None = None,
    stretches: Sequence[int] | None = None,
) -> Solution:
    """The map that agrees best with its links and its loops.

    `chain` has the submaps as they were placed one after the other, `parts` the number of the map part that each belongs to. The
    first submap of each part, or of several parts joined by loops, stays where it is. `stretches` numbers the pieces of video
    without a cut; by default each part is one. Where a link failed without a cut, two parts are in one stretch: their link is not
    used, but no loop may contradict it by far. Raises ValueError for a loop between submaps that do not exist.
    """
    config = config or GraphConfig()
    stretches = parts if stretches is None else stretches
    for loop in loops:
        if not 0 <= loop.a < loop.b < len(chain):
            raise ValueError(f"a loop joins submaps {loop.a} and {loop.b} of {len(chain)}")
    verdicts = Judge(chain, parts, stretches, loops, config).verdicts()
    trusted = [i for i, verdict in enumerate(verdicts) if verdict == "kept"]
    nodes = list(chain)
    while trusted:
        believed = [loops[i] for i in trusted]
        turned = _turned_right(chain, parts, stretches, believed, config)
        found, weights = _optimise(turned, parts, believed, config)
        trusted = [i for i, weight in zip(trusted, weights, strict=True) if weight >= 0.5]
        if len(trusted) == len(believed):
            nodes = found
            break
        # Once more without those that were outvoted: they had a say in how far the links turn.
    kept = [loops[i] for i in trusted]
    verdicts = ["outvoted" if verdict == "kept" and i not in trusted else verdict for i, verdict in enumerate(verdicts)]
    return Solution(nodes, verdicts, _residual(chain, kept, config), _residual(nodes, kept, config))


def _turned_right(
    chain: Sequence[Similarity],
    parts: Sequence[int],
    stretches: Sequence[int],
    loops: Sequence[Loop],
    config: GraphConfig,
) -> list[Similarity]:
    """The chain with the rotations of each stretch's links multiplied by the factor that agrees best with the loops in it.

    A network that errs in the field of view scales all rotations by a factor that depends on the scene and the lens. Over a long
    chain this adds up to more than half a turn, from which least squares does not recover.
    """
    inside = defaultdict(list)
    for loop in loops:
        if parts[loop.a] == parts[loop.b]:
            inside[stretches[loop.a]].append(loop)
    nodes = list(chain)
    for stretch, within in inside.items():
        numbers = [i for i, number in enumerate(stretches) if number == stretch]
        span = slice(numbers[0], numbers[-1] + 1)
        own = [replace(loop, a=loop.a - span.start, b=loop.b - span.start) for loop in within]
        nodes[span] = _best_turned(chain[span], parts[span], own, config)
    return nodes


def _best_turned(
    chain: Sequence[Similarity], parts: Sequence[int], loops: Sequence[Loop], config: GraphConfig
) -> Sequence[Similarity]:
    """A piece of the chain, turned by the factor that agrees best with the loops inside it."""

    def disagreement(factor: float) -> float:
        nodes = _turned(chain, parts, factor)
        angles = [
            Gap.of(loop.a_from_b, nodes[loop.a].inverse().after(nodes[loop.b])).rotation / loop.noise for loop in loops
        ]
        return float(np.sum(np.minimum(np.array(angles) / config.loop_rotation, 3) ** 2))

    # Among equal factors the one closest to 1 wins.
    best = min(sorted(TURNING_FACTORS, key=lambda factor: abs(factor - 1)), key=disagreement)
    return _turned(chain, parts, float(best))


def _turned(chain: Sequence[Similarity], parts: Sequence[int], factor: float) -> Sequence[Similarity]:
    """The chain with the rotation angle of every link multiplied by a factor."""
    if factor == 1:
        return chain
    nodes = [chain[0]]
    for i in range(1, len(chain)):
        if parts[i] != parts[i - 1]:
            nodes.append(chain[i])
            continue
        link = chain[i - 1].inverse().after(chain[i])
        turn = factor * Rotation.from_matrix(link.rotation).as_rotvec()
        nodes.append(nodes[-1].after(Similarity(link.scale, Rotation.from_rotvec(turn).as_matrix(), link.translation)))
    return nodes


def _optimise(
    chain: Sequence[Similarity], parts: Sequence[int], loops: Sequence[Loop], config: GraphConfig
) -> tuple[list[Similarity], list[float]]:
    """The optimised nodes, and the final weight of each loop, 0 to 1."""
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
    turn = np.hypot(config.link_rotation, config.link_turning * rotation_angle(link.rotation))
    noise = _noise(float(turn), float(translation), config.link_scale)
    return gtsam.BetweenFactorSimilarity3(i, i + 1, _to_gtsam(link), noise)


def _noise(rotation: float, translation: float, scale: float) -> gtsam.noiseModel.Diagonal:
    return gtsam.noiseModel.Diagonal.Sigmas(np.array([rotation] * 3 + [translation] * 3 + [scale]))


def _joined(
    chain: Sequence[Similarity], parts: Sequence[int], loops: Sequence[Loop]
) -> tuple[list[Similarity], set[int]]:
    """Nodes with the parts that loops join moved onto each other, and the first node of every connected group."""
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
    """GTSAM's similarity translates before it scales."""
    translation = similarity.translation / similarity.scale
    return gtsam.Similarity3(gtsam.Rot3(similarity.rotation), translation, similarity.scale)


def _from_gtsam(found: gtsam.Similarity3) -> Similarity:
    return Similarity(found.scale(), found.rotation().matrix(), found.scale() * found.translation())
