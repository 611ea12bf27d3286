"""Drawn tracks: a dot for each visible point, and a trail of its recent positions, in a colour of its own."""

import colorsys
from collections import deque
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from ivggt_jax.writers.result import Result

LENGTH = 12
"""Length of a trail in frames."""
SEEN = 0.5
"""Visibility from which a point counts as visible."""
GOLDEN = 0.618034
"""Step of the hue from point to point, which makes neighbours differ."""


class Trails:
    """The latest frames' tracks, fed frame by frame."""

    def __init__(self, state: Mapping[str, np.ndarray] | None = None):
        """Start empty, or from a saved `state()`."""
        kept = (state or {}).get("trails")
        self._frames: deque[np.ndarray] = deque(() if kept is None else list(kept), maxlen=LENGTH)

    def add(self, result: Result) -> None:
        """Add the next frame; a frame without tracks ends all trails."""
        if result.tracks is None or (self._frames and self._frames[0].shape != result.tracks.shape):
            self._frames.clear()
        if result.tracks is not None:
            seen = np.ones(len(result.tracks)) if result.visibility is None else result.visibility
            sure = np.isfinite(result.tracks).all(axis=-1) & (seen >= SEEN)
            self._frames.append(np.where(sure[:, None], result.tracks, np.nan).astype(np.float32))

    def lines(self) -> list[tuple[int, np.ndarray]]:
        """Points visible in the latest frame: number and trail [K, 2], latest position last, in pixels (centres at integers).

        A trail starts where the point was last hidden.
        """
        if not self._frames:
            return []
        places = np.stack(self._frames)  # [frame, point, xy]
        hidden = np.isnan(places[..., 0])
        found = []
        for number in np.flatnonzero(~hidden[-1]):
            gaps = np.flatnonzero(hidden[:, number])
            found.append((int(number), places[gaps[-1] + 1 if len(gaps) else 0 :, number]))
        return found

    def draw(self, picture: Image.Image, width: int) -> None:
        """Draw the trails into an enlarged picture of the latest frame, of which the model's input is `width` pixels wide."""
        factor = picture.width / width
        pen, canvas = max(1, picture.height // 160), ImageDraw.Draw(picture)
        for number, trail in self.lines():
            points = [tuple(point) for point in ((trail + 0.5) * factor - 0.5).tolist()]
            if len(points) > 1:
                canvas.line(points, colour(number), pen)
            canvas.circle(points[-1], 2 * pen, colour(number))

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed run needs."""
        return {"trails": np.stack(self._frames)} if self._frames else {}


def colour(number: int) -> tuple[int, int, int]:
    """The colour of a point by number: red, green, blue up to 255."""
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
