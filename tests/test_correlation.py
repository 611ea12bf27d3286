"""Correlation sampling against the whole correlation volume in plain NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax.model.heads import correlation
from ivggt_jax.model.heads.correlation import correlate, pyramid, sample

RADIUS, LEVELS = 2, 4


def averages(image: np.ndarray) -> np.ndarray:
    """2×2 means, pixel by pixel, of [h,w,C]."""
    height, width, channels = image.shape
    small = np.zeros((height // 2, width // 2, channels), np.float32)
    for y in range(height // 2):
        for x in range(width // 2):
            small[y, x] = image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((0, 1))
    return small


def bilinear(image: np.ndarray, x: float, y: float) -> float:
    """A scalar image between its pixels, zero outside; an axis of one pixel has no length."""
    height, width = image.shape
    x, y = (0.0 if width == 1 else x), (0.0 if height == 1 else y)
    total = 0.0
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += image[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def expected_correlation(features: np.ndarray, image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """One frame: features [N,C], image [h,w,C], points [N,2]."""
    result = []
    for feature, (x, y) in zip(features, points, strict=True):
        level, row = image, []
        for index in range(LEVELS):
            volume = level @ feature / np.sqrt(len(feature))
            row += [
                bilinear(volume, x / 2**index + dx, y / 2**index + dy)
                for dx in range(-RADIUS, RADIUS + 1)
                for dy in range(-RADIUS, RADIUS + 1)
            ]
            level = averages(level)
        result.append(row)
    return np.array(result)


@pytest.mark.parametrize("size", [(17, 26), (9, 8), (5, 11)], ids=["large", "one-pixel-level", "empty-level"])
@pytest.mark.parametrize("at_once", [512, 4, 1])
def test_against_the_whole_volume(monkeypatch, size, at_once):
    """Seed 0, 1e-5: points inside, at the border, beyond it, and too far for an integer; however many at a time."""
    monkeypatch.setattr(correlation, "POINTS_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    maps = random.normal(size=(2, 3, *size, 8)).astype(np.float32)
    features = random.normal(size=(2, 3, 4, 8)).astype(np.float32)
    points = (random.uniform(-0.2, 1.2, size=(2, 3, 4, 2)) * size[::-1]).astype(np.float32)
    points[0, 0, 0], points[0, 0, 1], points[1, 2, 3] = (0, 0), (size[1] - 1, size[0] - 1), (1e20, -1e20)
    found = correlate(jnp.asarray(features), pyramid(jnp.asarray(maps), LEVELS), jnp.asarray(points), RADIUS)
    assert found.shape == (2, 3, 4, LEVELS * (2 * RADIUS + 1) ** 2)
    for b in range(2):
        for s in range(3):
            expected = expected_correlation(features[b, s], maps[b, s], np.clip(points[b, s], -1e6, 1e6))
            np.testing.assert_allclose(found[b, s], expected, rtol=0, atol=1e-5)


def test_sample_holds_on_beyond_the_border():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 3)), jnp.float32)
    points = jnp.asarray([[1.5, 2.25], [-3.0, 9.0], [3.0, 5.0]])
    between = 0.375 * (table[1, 2] + table[2, 2]) + 0.125 * (table[1, 3] + table[2, 3])
    expected = jnp.stack([between, table[0, 5], table[3, 5]])
    np.testing.assert_allclose(sample(table, points), expected, rtol=0, atol=1e-6)
