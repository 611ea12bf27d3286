"""Which loops may count in the pose graph, as far as the chain of submaps and the other loops say.

A robust solver is no guard against a wrong loop that nothing contradicts: a long chain bends to whatever it is told. So a
loop counts only where the chain could have drifted so far, and where a second loop beside it agrees, unless it hardly
moves anything.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ivggt_jax.transforms import Similarity, rotation_angle

Verdict = Literal["kept", "implausible", "alone", "outvoted"]
"""What became of a loop. `implausible`: the chain cannot have drifted so far; `alone`: it moves the map far and no loop
near it agrees; `outvoted`: the others contradict it."""


@dataclass(frozen=True)
class GraphConfig:
    """How much links and loops are trusted. Angles in radians, lengths in a submap's unit, scales as logarithms."""

    link_rotation: float = 0.03
    link_turning: float = 0.1
    """Share of the angle by which the link turns, beside `link_rotation`: cameras turn by a factor that is wrong for the scene."""
    link_translation: float = 0.1
    """Share of the link's length, beside `loop_translation` / 4 in any case."""
    link_scale: float = 0.03
    loop_rotation: float = 0.1
    loop_translation: float = 0.15
    loop_scale: float = 0.06
    inlier: float = 0.99
    """Share of true loops that the noise above explains."""
    drift: float = 0.25
    """Most that a chain drifts, as a share of its length; true loops told of 0.23 where it was chosen."""
    drift_rotation: float = 0.25
    """The same of its rotation, as a share of all its turning; true loops told of 0.16."""
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
class Gap:
    """What is left between two ways to say the same similarity: angle in radians, length, logarithm of a scale."""

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
        """All three multiplied."""
        return Gap(factor * self.rotation, factor * self.translation, factor * self.scale)

    def within(self, most: "Gap") -> bool:
        """Whether nothing is larger than in `most`; not, where anything is not finite."""
        return bool(
            self.rotation <= most.rotation and self.translation <= most.translation and self.scale <= most.scale
        )


class Judge:
    """Which loops may count at all."""

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
        # In the world's unit, so that lengths of submaps add up.
        self._walked = np.cumsum([0.0, *(gap.translation * one.scale for gap, one in zip(gaps, chain, strict=False))])

    def verdicts(self) -> list[Verdict]:
        """Kept, as far as the chain and the other loops say."""
        plausible = [self._plausible(loop) for loop in self._loops]
        believed = defaultdict(list)
        for loop, fine in zip(self._loops, plausible, strict=True):
            if fine:
                believed[self._cell(loop)].append(loop)
        found: list[Verdict] = []
        for loop, fine in zip(self._loops, plausible, strict=True):
            i, j = self._cell(loop)
            # Those that could agree are in the cells around: all pairs would be too many on a long stream.
            around = ((i + x, j + y) for x in (-1, 0, 1) for y in (-1, 0, 1))
            near = (other for cell in around for other in believed.get(cell, ()))
            supported = fine and (self._moves_little(loop) or any(self._agree(loop, other) for other in near))
            found.append("implausible" if not fine else "kept" if supported else "alone")
        return found

    def _cell(self, loop: Loop) -> tuple[int, int]:
        """A square of loops as wide as loops that can agree are apart."""
        return loop.a // self._config.neighbours, loop.b // self._config.neighbours

    def _plausible(self, loop: Loop) -> bool:
        """Whether the chain can have drifted as far as the loop says; nothing is known across a cut."""
        if self._stretches[loop.a] != self._stretches[loop.b]:
            return True
        config, (turned, walked) = self._config, self._way(loop.a, loop.b, self._chain[loop.a].scale)
        sure = 2 * loop.noise
        most = Gap(
            sure * config.loop_rotation + config.drift_rotation * turned,
            sure * config.loop_translation + config.drift * walked,
            sure * config.loop_scale + config.drift_scale * (loop.b - loop.a) ** 0.5,
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
        turned = sum(self._way(i, j, 1.0)[0] for i, j in ends)
        rotation = np.sqrt(
            2 * config.loop_rotation**2 + links * config.link_rotation**2 + (config.link_turning * turned) ** 2
        )
        # What one loop says of the other's place is turned by its own wrong rotation.
        parts = (config.loop_translation, config.loop_translation, config.link_translation * walked, rotation * walked)
        scale = np.sqrt(2 * config.loop_scale**2 + links * config.link_scale**2)
        return Gap(float(rotation), float(np.linalg.norm(parts)), float(scale))

    def _gap(self, loop: Loop) -> Gap:
        return Gap.of(loop.a_from_b, self._chain[loop.a].inverse().after(self._chain[loop.b]))

    def _way(self, i: int, j: int, unit: float) -> tuple[float, float]:
        """How much the chain turns from one submap to another, and how long it is in a `unit` of the world."""
        return abs(self._turned[i] - self._turned[j]), abs(self._walked[i] - self._walked[j]) / unit
