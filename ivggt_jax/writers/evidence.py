"""Whether a run's frames show enough for its geometry to be meaningful.

A network outputs depth and cameras for any input, even a lens cap. This module detects input without any geometry: fewer than
three frames, frames of a single colour, noise, and static frames in which only a clock, the brightness of a lamp or sensor noise
changes; and invalid cameras, which an untrained network outputs.
"""

from collections.abc import Mapping

import numpy as np

from ivggt_jax.writers.result import LONGEST_FOCAL

SIDE = 8
"""Cells along each side of the small grey picture by which frames are compared; noise averages out in a cell."""
PLAIN = 2.0
"""Standard deviation of grey values (of 255) up to which a frame counts as a single colour."""
SAME = 1.5
"""Difference of a cell (of 255) up to which it counts as unchanged."""
OVERLAY = 1 / 8
"""Share of cells that a clock may change in a static picture: 4 of 64 were counted, compared with at least 23 in three frames of
a walk."""
WINDOW = 16
"""Frames whose mean is also compared; strong noise averages out in it."""
FEWEST_WINDOWS = 3
"""Fewest means to compare."""
ROUGH = 0.75
"""Roughness from which a picture is noise: walks reach 0.41, white noise at least 0.83, even if compressed or halved in size."""
FEWEST = 3
"""Fewest frames against which a structure can be checked."""


class Evidence:
    """Observes frames; a resumed run passes the saved `state()`."""

    def __init__(self, state: Mapping[str, np.ndarray]):
        counts = state.get("counts", np.zeros(4)).tolist()
        self._frames, self._cameras, self._contrast, self._roughness = counts
        self._each = _Still(state.get("first"), state.get("changed"))
        self._means = _Still(state.get("first_mean"), state.get("means_changed"))
        self._sum: np.ndarray = state.get("sum", np.zeros(()))

    def add(self, image: np.ndarray, intrinsics: np.ndarray) -> None:
        """Observe the next frame, uint8 [H, W, 3], and its camera [3, 3]."""
        focal = np.diagonal(intrinsics)[:2]
        self._cameras += bool((focal > 0).all() and (focal < LONGEST_FOCAL).all())
        grey = image.mean(axis=-1, dtype=np.float32)
        cells = _cells(grey)
        self._frames += 1
        self._contrast = max(self._contrast, float(grey.std()))
        self._roughness += _roughness(grey)
        self._each.add(cells)
        self._sum = self._sum + cells
        if self._frames % WINDOW == 0:
            self._means.add(self._sum / WINDOW)
            self._sum = np.zeros(())

    def doubt(self) -> str | None:
        """Doubt about the geometry, in a sentence; None if there is none."""
        if self._frames == 0:
            return None
        if self._contrast <= PLAIN:
            return "the geometry means nothing: the frames are of one colour"
        if self._roughness > ROUGH * self._frames:
            return "the geometry means nothing: the frames are noise"
        if self._frames == 1:
            return "the geometry means nothing: a single frame has no second view"
        if self._each.share == 0:
            return "the geometry means nothing: all frames show the same, and no second view"
        if self._each.share <= OVERLAY or (self._frames >= FEWEST_WINDOWS * WINDOW and self._means.share <= OVERLAY):
            return "the geometry means little: nearly all of the picture stands still, and there is no second view"
        if self._frames < FEWEST:
            return "the geometry means little: two frames leave nothing to check it against"
        if without := int(self._frames - self._cameras):
            return (
                f"the geometry of {without} of {int(self._frames)} frames means nothing: the network says that their field of view "
                "is 0° or over 180°, as untrained or damaged weights do"
            )
        return None

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed run needs for the same result."""
        arrays = {
            **{"first": self._each.first, "changed": self._each.changed, "sum": self._sum},
            **{"first_mean": self._means.first, "means_changed": self._means.changed},
        }
        counts = np.array((self._frames, self._cameras, self._contrast, self._roughness))
        return {"counts": counts, **{name: array for name, array in arrays.items() if array is not None}}


class _Still:
    """Which cells have ever differed from the first frame."""

    def __init__(self, first: np.ndarray | None, changed: np.ndarray | None):
        self.first, self.changed = first, changed

    def add(self, cells: np.ndarray) -> None:
        if self.first is None or self.changed is None:
            self.first, self.changed = cells, np.zeros(cells.shape, bool)
        else:
            self.changed = self.changed | (_difference(cells, self.first) > SAME)

    @property
    def share(self) -> float:
        """Share of the cells."""
        return 0.0 if self.changed is None else float(self.changed.mean())


def _cells(grey: np.ndarray) -> np.ndarray:
    """Means of a grey picture [H, W] in 8×8 cells of about equal size; single pixels if there are fewer."""
    for axis in (0, 1):
        edges = np.unique(np.linspace(0, grey.shape[axis], SIDE + 1).astype(int))[:-1]
        sizes = np.diff(edges, append=grey.shape[axis])
        grey = np.add.reduceat(grey, edges, axis=axis) / np.expand_dims(sizes, 1 - axis)
    return grey


def _difference(cells: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Difference of cells from the first ones, after matching contrast and brightness over all cells except a clock's."""
    kept = np.ones(cells.shape, bool)
    for _ in range(2):
        middle, first_middle = cells[kept].mean(), first[kept].mean()
        away, first_away = cells - middle, first - first_middle
        variance = np.square(first_away[kept]).sum()
        contrast = max(0.0, (away * first_away)[kept].sum() / variance) if variance else 0.0
        difference = np.abs(away - contrast * first_away)
        kept = difference <= np.quantile(difference, 1 - OVERLAY)
    return difference


def _roughness(grey: np.ndarray) -> float:
    """Mean squared difference of neighbours over twice the variance: near 0 for a smooth picture, 1 for white noise."""
    if (variance := float(grey.var())) == 0:
        return 0.0
    return float(np.mean([np.square(np.diff(grey, axis=axis)).mean() for axis in (0, 1)])) / (2 * variance)
