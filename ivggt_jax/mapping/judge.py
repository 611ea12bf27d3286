"""Which loops may enter the pose graph, judged by the chain of submaps and by the other loops.

A robust solver does not guard against a wrong loop that nothing contradicts: a long chain bends to fit it. So a loop counts only
if the chain can have drifted that far and a second loop nearby agrees, unless it hardly moves anything.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ivggt_jax.transforms import Similarity, rotation_angle

Verdict = Literal["kept", "implausible", "alone", "outvoted"]
"""Verdict on a loop. `implausible`: the chain cannot have drifted that far; `alone`: it moves the map far and no nearby loop
agrees; `outvoted`: the other loops contradict it."""


@dataclass(frozen=True)
class GraphConfig:
    """Noise of links and loops. Angles in radians, lengths in a submap's unit, scales as logarithms."""

    link_rotation: float = 0.03
    link_turning: float = 0.1
    """Noise as a share of the link's rotation angle, besides `link_rotation`, because rotations are off by a factor that depends
    on the scene."""
    link_translation: float = 0.1
    """Noise as a share of the link's length, besides a constant `loop_translation` / 4."""
    link_scale: float = 0.03
    loop_rotation: float = 0.1
    loop_translation: float = 0.15
    loop_scale: float = 0.06
    inlier: float = 0.99
    """Share of true loops that this noise explains."""
    drift: float = 0.25
    """Largest drift of a chain, as a share of its length; true loops showed up to 0.23 where it was chosen."""
    drift_rotation: float = 0.25
    """The same for rotation, as a share of all its turning; true loops showed up to 0.16."""
    drift_scale: float = 0.12
    """The same for the scale, times the square root of the number of links."""
    neighbours: int = 8
    """Two loops can agree if their ends are at most this many links apart."""
    agreement: float = 2.0
    """Two loops agree if they differ by less than this many standard deviations of the path between them."""
    near: float = 2.0
    """A loop that moves its submaps by less than this many times its own noise needs no second one."""


@dataclass(frozen=True)
class Loop:
    """Two submaps that saw the same place."""

    a: int
    b: int
    a_from_b: Similarity
    noise: float = 1.0
    """How much less certain it is than usual: a multiple of the noise in `GraphConfig`."""


@dataclass(frozen=True, eq=False)
class Gap:
    """Difference between two estimates of the same similarity: angle in radians, length, absolute log of the scale ratio."""

    rotation: float
    translation: float
    scale: float

    @classmethod
    def of(cls, one: Similarity, other: Similarity) -> "Gap":
        """The gap between two similarities a_from_b; the length is in a's unit."""
        angle = rotation_angle(one.rotation.T @ other.rotation)
        shift = np.linalg.norm(one.translation - other.translation)
        return cls(float(angle), float(shift), float(abs(np.log(one.scale / other.scale))))

    def times(self, factor: float) -> "Gap":
        """All three values multiplied by `factor`."""
        return Gap(factor * self.rotation, factor * self.translation, factor * self.scale)

    def within(self, most: "Gap") -> bool:
        """Whether no value exceeds that in `most`; False for NaN and infinity."""
        return bool(
            self.rotation <= most.rotation and self.translation <= most.translation and self.scale <= most.scale
        )


class Judge:
    """Decides which loops may enter the graph."""

    def __init__(
        self,
        chain: Sequence[Similarity],
        parts: Sequence[int],
        stretches: Sequence[int],
        loops: Sequence[Loop],
        config: GraphConfig,
    ):
        self._chain, self._parts, self._stretches = chain, parts, stretches
        self._loops, self._config = loops, config
        steps = [one.inverse().after(other) for one, other in zip(chain, chain[1:], strict=False)]
        gaps = [Gap.of(Similarity(), step) for step in steps]
        self._turned = np.cumsum([0.0, *(gap.rotation for gap in gaps)])
        # In the world's unit, because submaps differ in theirs.
        self._walked = np.cumsum([0.0, *(gap.translation * one.scale for gap, one in zip(gaps, chain, strict=False))])

    def verdicts(self) -> list[Verdict]:
        """The verdict on each loop, before the graph is solved."""
        plausible = [self._plausible(loop) for loop in self._loops]
        believed = defaultdict(list)
        for loop, fine in zip(self._loops, plausible, strict=True):
            if fine:
                believed[self._cell(loop)].append(loop)
        found: list[Verdict] = []
        for loop, fine in zip(self._loops, plausible, strict=True):
            i, j = self._cell(loop)
            # Loops that can agree are in neighbouring cells; comparing all pairs would take too long on a long stream.
            around = ((i + x, j + y) for x in (-1, 0, 1) for y in (-1, 0, 1))
            near = (other for cell in around for other in believed.get(cell, ()))
            supported = fine and (self._moves_little(loop) or any(self._agree(loop, other) for other in near))
            found.append("implausible" if not fine else "kept" if supported else "alone")
        for i in self._outvoted([i for i, verdict in enumerate(found) if verdict == "kept"]):
            found[i] = "outvoted"
        return found

    def _outvoted(self, believed: Sequence[int]) -> list[int]:
        """Of the loops with these numbers, those that contradict the one with most votes between the same two parts.

        Nothing but loops holds two parts together, so a robust solver would begin between the true and the false ones.
        """
        joining = defaultdict(list)
        for i in believed:
            a, b = (self._parts[end] for end in (self._loops[i].a, self._loops[i].b))
            if a != b:
                joining[a, b].append(i)
        found = []
        for group in joining.values():
            fit = np.array([[self._compatible(self._loops[i], self._loops[j]) for j in group] for i in group])
            found += [i for i, fits in zip(group, fit[np.argmax(fit.sum(1))], strict=True) if not fits]
        return found

    def _cell(self, loop: Loop) -> tuple[int, int]:
        """The grid cell of a loop; cells are as wide as the distance at which loops can agree."""
        return loop.a // self._config.neighbours, loop.b // self._config.neighbours

    def _plausible(self, loop: Loop) -> bool:
        """Whether the chain can have drifted as far as the loop says; across a cut anything is plausible."""
        if self._stretches[loop.a] != self._stretches[loop.b]:
            return True
        return self._gap(loop).within(self._most(((loop.a, loop.b),), self._chain[loop.a].scale, loop.noise))

    def _most(self, ways: Sequence[tuple[int, int]], unit: float, noise: float) -> Gap:
        """The largest gap that drift along some ways of the chain can leave, besides loops with so much noise in all."""
        config, passed = self._config, [self._way(i, j, unit) for i, j in ways]
        turned, walked = (sum(values) for values in zip(*passed, strict=True))
        links, sure = sum(abs(i - j) for i, j in ways), 2 * noise
        return Gap(
            sure * config.loop_rotation + config.drift_rotation * turned,
            sure * config.loop_translation + config.drift * walked,
            sure * config.loop_scale + config.drift_scale * links**0.5,
        )

    def _moves_little(self, loop: Loop) -> bool:
        config = self._config
        noise = Gap(config.loop_rotation, config.loop_translation, config.loop_scale)
        return self._parts[loop.a] == self._parts[loop.b] and self._gap(loop).within(noise.times(config.near))

    def _agree(self, one: Loop, other: Loop) -> bool:
        """Whether two loops between the same two neighbourhoods agree."""
        ends = ((one.a, other.a), (one.b, other.b))
        if (one.a, one.b) == (other.a, other.b):
            return False
        if any(abs(i - j) > self._config.neighbours or self._parts[i] != self._parts[j] for i, j in ends):
            return False
        return self._gap_around(one, other).within(self._noise_around(ends).times(self._config.agreement))

    def _compatible(self, one: Loop, other: Loop) -> bool:
        """Whether two loops between the same two parts may both be right, however far the chain drifts between their ends."""
        ways = ((one.a, other.a), (one.b, other.b))
        return self._gap_around(one, other).within(self._most(ways, self._chain[one.a].scale, one.noise + other.noise))

    def _gap_around(self, one: Loop, other: Loop) -> Gap:
        """The gap between a loop, and the way along the chain, the other loop and the chain."""
        there, back = (self._chain[i].inverse().after(self._chain[j]) for i, j in ((one.a, other.a), (one.b, other.b)))
        return Gap.of(one.a_from_b, there.after(other.a_from_b).after(back.inverse()))

    def _noise_around(self, ends: Sequence[tuple[int, int]]) -> Gap:
        """Standard deviation of the path along one loop, a piece of the chain, the other loop, and back along the chain."""
        config = self._config
        links = sum(abs(i - j) for i, j in ends)
        walked = sum(self._way(i, j, self._chain[ends[0][0]].scale)[1] for i, j in ends)
        turned = sum(self._way(i, j, 1.0)[0] for i, j in ends)
        rotation = np.sqrt(
            2 * config.loop_rotation**2 + links * config.link_rotation**2 + (config.link_turning * turned) ** 2
        )
        # The rotation error of one loop displaces the other's end.
        parts = (config.loop_translation, config.loop_translation, config.link_translation * walked, rotation * walked)
        scale = np.sqrt(2 * config.loop_scale**2 + links * config.link_scale**2)
        return Gap(float(rotation), float(np.linalg.norm(parts)), float(scale))

    def _gap(self, loop: Loop) -> Gap:
        return Gap.of(loop.a_from_b, self._chain[loop.a].inverse().after(self._chain[loop.b]))

    def _way(self, i: int, j: int, unit: float) -> tuple[float, float]:
        """How much the chain turns between two submaps, in radians, and its length there, in a `unit` of the world."""
        return abs(self._turned[i] - self._turned[j]), abs(self._walked[i] - self._walked[j]) / unit
