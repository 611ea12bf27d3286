"""16-bit grey: thermal counts and 10-, 12- or 14-bit values use only a small part of the range, and would look nearly uniform."""

import logging
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np

from ivggt_jax.sources.frame import Levels

logger = logging.getLogger(__name__)

WIDE = 16_384
"""Range in steps (a quarter of 16 bits) from which a picture is taken to use all bits: its upper eight are kept."""
FIRST = 8
"""Number of first pictures of a source from which its levels are determined."""
TAILS = (0.1, 99.9)
"""Percentiles taken as darkest and brightest."""
MARGIN = 0.1
"""Share of the range kept free on either side for later pictures."""


class Stretch:
    """Black and white levels for all 16-bit grey pictures of a source, determined from its first ones when first needed.

    It also reports, once per source, how unusual encodings are converted.
    """

    def __init__(self, source: str, samples: Callable[[], Iterable[np.ndarray]]):
        """samples: returns the values, uint16 of any shape, of those of the first pictures that are 16-bit grey."""
        self._source, self._samples = source, samples
        self._told: set[str] = set()

    def levels(self, values: np.ndarray) -> Levels | None:
        """Levels for a picture with these values, uint16; None if its upper eight bits are right."""
        return self._common if self._found else levels_of([values])

    def tell_once(self, words: str) -> None:
        """Print a line about the source's pictures, only once."""
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
    """Black and white levels for uint16 pictures; None if they use the range. 0 and 65,535 mean "no value" and do not count."""
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
    """uint16 of any shape as uint8: stretched, or without levels the upper eight bits."""
    if levels is None:
        return (values >> 8).astype(np.uint8)
    black, white = levels
    return np.rint(np.clip((values - black) * (255 / (white - black)), 0, 255)).astype(np.uint8)
