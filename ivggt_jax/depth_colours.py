"""Depth as colours: warm is near."""

import numpy as np

COLOURS = ((20, 10, 50), (40, 60, 160), (30, 150, 170), (110, 200, 90), (250, 210, 60), (220, 60, 30))
"""Colours from far to near."""


def colour_depth(depth: np.ndarray, inverse_range: np.ndarray) -> np.ndarray:
    """Depth [H, W] as colours uint8 [H, W, 3]: warm is near, dark is far or unknown; linear in 1/depth over the range [2]."""
    return colour(nearness(depth, inverse_range))


def nearness(depth: np.ndarray, inverse_range: np.ndarray) -> np.ndarray:
    """Position of depth [...] in a range [2] of 1/depth: 0 is far or unknown, 1 is near."""
    far, near = inverse_range
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(np.nan_to_num((1 / depth - far) / (near - far), nan=0, posinf=0, neginf=0), 0, 1)


def colour(values: np.ndarray) -> np.ndarray:
    """Values [...] from 0 to 1 as colours uint8 [..., 3]: dark, blue, green, warm."""
    steps = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(values, steps, channel) for channel in np.transpose(COLOURS)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def inverse_depth_range(depth: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """Range [2] of 1/depth that the colours cover. It follows the video slowly, so that colours do not flicker."""
    finite = depth[np.isfinite(depth) & (depth > 0)]
    if finite.size == 0:
        return np.array((0.0, 1.0)) if before is None else before
    far, near = np.percentile(1 / finite, (2, 98))
    now = np.array((far, max(near, far + 1e-6)))
    return now if before is None else 0.95 * before + 0.05 * now
