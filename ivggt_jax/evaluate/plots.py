"""Small plots as text for a page: SVG for curves and paths, PNG for maps. Their size is bounded."""

import base64
import html
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

COLOURS = ("#1f6fb4", "#d1495b", "#2e8b57", "#8d6a9f", "#c98a1b", "#555555")
TRUTH_COLOUR, PREDICTION_COLOUR = "#999999", COLOURS[0]
WIDTH, HEIGHT, MARGIN = 480, 300, 52
"""Size of a plot in pixels, and the margin for the numbers on its axes."""
_POINTS = 1000
"""A curve is drawn with at most about twice as many points."""
_MAP_WIDTH = 240

# Dark blue through green to yellow: brightness increases throughout, and it is readable without telling red from green.
_DEPTH_MAP = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float64)
_ERROR_MAP = np.array([[255, 255, 255], [253, 187, 132], [227, 74, 51], [127, 0, 0]], np.float64)
_UNKNOWN = (60, 60, 60)


def line_plot(curves: Mapping[str, np.ndarray], x_label: str, y_label: str) -> str:
    """SVG of curves over the frame number, each float [S]; non-finite values leave gaps.

    Each piece of a long curve is drawn by its smallest and largest value, so that no peak is lost.
    """
    drawn = {name: _thinned(np.asarray(values, np.float64)) for name, values in curves.items()}
    every = np.concatenate([values for _, values in drawn.values()] or [np.zeros(0)])
    every = every[np.isfinite(every)]
    low, high = (min(0.0, every.min()), every.max()) if every.size else (0.0, 1.0)
    frames = max((len(values) for values in curves.values()), default=1)
    axes = _Axes((0.0, max(1.0, frames - 1.0)), (low, high if high > low else low + 1))
    lines = []
    for colour, (frame, values) in zip(_cycle(len(drawn)), drawn.values(), strict=True):
        known = np.isfinite(values)
        for piece in np.split(np.arange(len(values)), np.flatnonzero(np.diff(known)) + 1):
            if len(piece) and known[piece[0]]:
                lines.append(axes.polyline(frame[piece], values[piece], colour))
    legend = dict(zip(curves, _cycle(len(curves)), strict=True))
    return axes.svg("".join(lines), x_label, y_label, legend)


def path_plot(truth: np.ndarray, prediction: np.ndarray) -> str:
    """SVG of the true and the predicted (aligned) camera positions, [S, 3] each, on the two axes with the largest extent.

    Both axes have the same scale. Non-finite positions are left out.
    """
    truth, prediction = (positions[:: max(1, len(positions) // _POINTS)] for positions in (truth, prediction))
    truth, prediction = (positions[np.isfinite(positions).all(axis=1)] for positions in (truth, prediction))
    both = np.concatenate((truth, prediction))
    low, high = both.min(axis=0), both.max(axis=0)
    across, up = sorted(np.argsort(high - low)[-2:])
    middle = (low + high) / 2
    half = max((high - low)[across] / (WIDTH - 2 * MARGIN), (high - low)[up] / (HEIGHT - 2 * MARGIN), 1e-9) * 0.525
    spans = [
        (middle[axis] - half * (side - 2 * MARGIN), middle[axis] + half * (side - 2 * MARGIN))
        for axis, side in ((across, WIDTH), (up, HEIGHT))
    ]
    axes = _Axes(*spans)
    lines = [
        axes.polyline(positions[:, across], positions[:, up], colour)
        for positions, colour in ((truth, TRUTH_COLOUR), (prediction, PREDICTION_COLOUR))
    ]
    legend = {"truth": TRUTH_COLOUR, "prediction, aligned": PREDICTION_COLOUR}
    return axes.svg("".join(lines), "xyz"[across], "xyz"[up], legend)


def depth_maps(prediction: np.ndarray, truth: np.ndarray, error: np.ndarray, largest_error: float = 0.25) -> str:
    """An HTML image: true depth, predicted (aligned) depth and relative error side by side, [H, W] each.

    Depth ranges from the truth's 2nd to its 98th percentile, the error from 0 to `largest_error`; dark grey is unknown.
    """
    known = truth[np.isfinite(error)]
    low, high = np.percentile(known, (2, 98)) if known.size else (0.0, 1.0)
    span = max(high - low, 1e-9)
    shown = np.where(np.isfinite(error), truth, np.nan)
    maps = (
        _coloured((shown - low) / span, _DEPTH_MAP),
        _coloured((prediction - low) / span, _DEPTH_MAP),
        _coloured(error / largest_error, _ERROR_MAP),
    )
    step = -(-truth.shape[1] // _MAP_WIDTH)
    picture = np.concatenate([image[::step, ::step] for image in maps], axis=1)
    data = io.BytesIO()
    Image.fromarray(picture).save(data, format="PNG", optimize=True)
    text = f"true depth, predicted depth ({low:.3g} to {high:.3g}), relative error (0 to {largest_error:g})"
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    return f'<img src="data:image/png;base64,{encoded}" alt="{text}" title="{text}">'


class _Axes:
    """Axes with numbers, and the mapping from data to the plot's pixels."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]):
        self._x, self._y = x, y

    def polyline(self, x: np.ndarray, y: np.ndarray, colour: str) -> str:
        """A line through data points."""
        points = " ".join(f"{self._left(a):.1f},{self._top(b):.1f}" for a, b in zip(x, y, strict=True))
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.3"/>'

    def svg(self, content: str, x_label: str, y_label: str, legend: Mapping[str, str]) -> str:
        """The whole plot around its content."""
        right, bottom = WIDTH - MARGIN, HEIGHT - MARGIN
        parts = [f'<rect x="{MARGIN}" y="{MARGIN}" width="{right - MARGIN}" height="{bottom - MARGIN}" class="frame"/>']
        for value, text in _ticks(*self._x):
            parts.append(f'<text x="{self._left(value):.1f}" y="{bottom + 14}" text-anchor="middle">{text}</text>')
        for value, text in _ticks(*self._y):
            parts.append(f'<text x="{MARGIN - 4}" y="{self._top(value) + 4:.1f}" text-anchor="end">{text}</text>')
        parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 18}" text-anchor="middle">{html.escape(x_label)}</text>')
        parts.append(f'<text x="{MARGIN}" y="{MARGIN - 8}">{html.escape(y_label)}</text>')
        for place, (name, colour) in enumerate(legend.items()):
            x = MARGIN + place * (WIDTH - 2 * MARGIN) / max(1, len(legend))
            parts.append(f'<text x="{x:.0f}" y="16" fill="{colour}">{html.escape(name)}</text>')
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">{"".join(parts)}{content}</svg>'

    def _left(self, x: float) -> float:
        return MARGIN + (x - self._x[0]) / (self._x[1] - self._x[0]) * (WIDTH - 2 * MARGIN)

    def _top(self, y: float) -> float:
        return HEIGHT - MARGIN - (y - self._y[0]) / (self._y[1] - self._y[0]) * (HEIGHT - 2 * MARGIN)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Three to seven round numbers between the ends, and their text."""
    rough = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = int(np.ceil(low / step - 1e-9))
    return [(i * step, f"{i * step:.6g}") for i in range(first, int(np.floor(high / step + 1e-9)) + 1)]


def _thinned(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames and values of a curve; a long one is reduced to the smallest and largest value of each piece, in order."""
    if len(values) <= 2 * _POINTS:
        return np.arange(len(values)), values
    frames: list[int] = []
    for piece in np.array_split(np.arange(len(values)), _POINTS):
        known = piece[np.isfinite(values[piece])]
        ends = (
            {int(known[np.argmin(values[known])]), int(known[np.argmax(values[known])])}
            if len(known)
            else {int(piece[0])}
        )
        frames += sorted(ends)
    return np.array(frames), values[frames]


def _cycle(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _coloured(values: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] from values [H, W] between 0 and 1; non-finite values are dark grey."""
    place = np.clip(np.nan_to_num(values), 0, 1) * (len(anchors) - 1)
    picture = np.stack([np.interp(place, np.arange(len(anchors)), channel) for channel in anchors.T], axis=-1)
    return np.where(np.isfinite(values)[..., None], picture, _UNKNOWN).astype(np.uint8)
