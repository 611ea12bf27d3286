"""Grey of 16 bits: thermal counts and 10-, 12- or 14-bit values use a small part of it, and would come out nearly uniform."""

import logging
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np

from ivggt_jax.sources.frame import Levels

logger = logging.getLogger(__name__)

WIDE = 16_384
"""Steps (a quarter of 16 bits) from where on a picture is taken to use its range: it keeps its upper eight bits."""
FIRST = 8
"""Pictures at the beginning of a source that its levels are found in."""
TAILS = (0.1, 99.9)
"""Percentiles that count as darkest and brightest."""
MARGIN = 0.1
"""Share of the range that is left on either side for what later pictures show."""


class Stretch:
    """Black and white for all 16-bit grey pictures of a source, found in its first ones when they are first needed.

    It also says, once a source, what becomes of other values outside the usual encoding.
    """

    def __init__(self, source: str, samples: Callable[[], Iterable[np.ndarray]]):
        """samples: gives the values, uint16 of any shape, of those of the first pictures that are grey with 16 bits."""
        self._source, self._samples = source, samples
        self._told: set[str] = set()

    def levels(self, values: np.ndarray) -> Levels | None:
        """For a picture of these values, uint16; None where its upper eight bits are right."""
        return self._common if self._found else levels_of([values])

    def tell_once(self, words: str) -> None:
        """A line about the source's pictures, the first time that it is true."""
        if words not in self._told:
            self._told.add(words)
            logger.warning("%s: %s", self._source, words)

    @cached_property
    def _found(self) -> list[np.ndarray]:
        return [values[::2, ::2] for values in self._samples()]

    @cached_property
    def _common(self) -> Levels | None:
        if levels := levels_of(self._found):
            logger.warning(
                "%s: 16-bit grey from %.0f to %.0f, found in the first pictures, is stretched from black to white",
                self._source, *levels,
            )  # fmt: skip
        return levels


def levels_of(pictures: list[np.ndarray]) -> Levels | None:
    """Black and white for uint16 pictures; None where they use the range. 0 and 65,535 mean "no value" and do not count."""
    values = np.concatenate([picture.ravel() for picture in pictures])
    inner = values[(values > 0) & (values < 65_535)]
    if not inner.size:
        return None
    dark, bright = np.percentile(inner, TAILS)
    if bright - dark >= WIDE:
        return None
    margin = max(MARGIN * (bright - dark), 8.0)
    return float(dark - margin), float(bright + margin)


def to_8_bits(values: np.ndarray, levels: Levels | None) -> np.ndarray:
    """uint16 of any shape as uint8: stretched, or without levels its upper eight bits."""
    if levels is None:
        return (values >> 8).astype(np.uint8)
    black, white = levels
    return np.rint(np.clip((values - black) * (255 / (white - black)), 0, 255)).astype(np.uint8)
