"""Whether a run's frames show enough for its geometry to mean anything.

A network gives depth and cameras for whatever it sees, a lens cap included. Here is noticed what no geometry follows from:
fewer than three frames, frames of one colour, frames that all show the same.
"""

from collections.abc import Mapping

import numpy as np

SIDE = 8
"""Cells along each side of the small grey picture that frames are compared by: noise averages out in them."""
PLAIN = 2.0
"""Standard deviation of grey values (of 255) up to which a frame is of one colour."""
SAME = 1.5
"""Largest difference of a cell (of 255) up to which two frames show the same."""
FEWEST = 3
"""Frames that a structure can be checked against."""


class Evidence:
    """Watches frames; a resumed run gives the `state()` that was saved."""

    def __init__(self, state: Mapping[str, np.ndarray]):
        self._first: np.ndarray | None = state.get("first")
        self._frames, self._contrast, self._change = state.get("counts", np.zeros(3)).tolist()

    def add(self, image: np.ndarray) -> None:
        """Looks at the next frame, uint8 [H, W, 3]."""
        grey = image.mean(axis=-1, dtype=np.float32)
        cells = _cells(grey)
        if self._first is None:
            self._first = cells
        self._frames += 1
        self._contrast = max(self._contrast, float(grey.std()))
        self._change = max(self._change, float(np.abs(cells - self._first).max()))

    def doubt(self) -> str | None:
        """What speaks against the geometry, in a sentence; None where nothing does."""
        if self._frames == 0:
            return None
        if self._contrast <= PLAIN:
            return "the geometry means nothing: the frames are of one colour"
        if self._frames == 1:
            return "the geometry means nothing: a single frame has no second view"
        if self._change <= SAME:
            return "the geometry means nothing: all frames show the same, and no second view"
        if self._frames < FEWEST:
            return "the geometry means little: two frames leave nothing to check it against"
        return None

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed run needs to come to the same end."""
        if self._first is None:
            return {}
        return {"first": self._first, "counts": np.array((self._frames, self._contrast, self._change))}


def _cells(grey: np.ndarray) -> np.ndarray:
    """Means of a grey picture [H, W] in 8×8 cells of about the same size; of every pixel where there are fewer."""
    for axis in (0, 1):
        edges = np.unique(np.linspace(0, grey.shape[axis], SIDE + 1).astype(int))[:-1]
        sizes = np.diff(edges, append=grey.shape[axis])
        grey = np.add.reduceat(grey, edges, axis=axis) / np.expand_dims(sizes, 1 - axis)
    return grey
