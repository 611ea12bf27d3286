"""Slow, plain NumPy statements of what the library computes: float64, loops, no shared code."""

import numpy as np


def attention(query: np.ndarray, keys: np.ndarray, values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Softmax attention [B,Q,H,D] to the keys that `seen` [B,Q,K] marks."""
    query, keys, values = (np.asarray(x, np.float64) for x in (query, keys, values))
    result = np.zeros_like(query)
    for b, q, h in np.ndindex(query.shape[:3]):
        visible = np.flatnonzero(seen[b, q])
        scores = keys[b, visible, h] @ query[b, q, h] / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max())
        result[b, q, h] = weights @ values[b, visible, h] / weights.sum()
    return result


def redundancy(keys: np.ndarray) -> np.ndarray:
    """Cosines [N] of candidate keys [N,D] with the mean of their directions."""
    directions = np.asarray(keys, np.float64) / np.linalg.norm(np.asarray(keys, np.float64), axis=-1, keepdims=True)
    return directions @ directions.mean(0)


def survivors(redundancy: np.ndarray, budget: int, anchor: int) -> set[int]:
    """Slots left of a head's live ones [length]: the most redundant candidates go, of equal ones the lowest slot first."""
    candidates = range(anchor, len(redundancy))
    ranked = sorted(candidates, key=lambda slot: (-redundancy[slot], slot))
    return set(range(len(redundancy))) - set(ranked[: max(0, len(redundancy) - budget)])


def shares(scores: np.ndarray, total: int, temperature: float, least: int, most: int) -> np.ndarray:
    """One stream's layer shares before rounding: clip(λ·softmax) with the λ, found by bisection, that makes the sum `total`."""
    weights = np.exp((1 - np.asarray(scores, np.float64)) / temperature)
    weights /= weights.sum()
    if total >= most * len(weights):
        return np.full(len(weights), float(most))
    low, high = 0.0, float(most) / weights.min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(middle * weights, least, most).sum() < total else (low, middle)
    return np.clip(low * weights, least, most)


def cubic_resize_matrix(size: int, new_size: int) -> np.ndarray:
    """Antialiased bicubic interpolation (a = −1/2, half-pixel centres, weights normalised at the border), [new_size,size]."""
    scale = size / new_size
    stretch = max(scale, 1.0)
    matrix = np.zeros((new_size, size))
    for row in range(new_size):
        for column in range(size):
            x = abs((row + 0.5) * scale - (column + 0.5)) / stretch
            if x < 1:
                matrix[row, column] = 1.5 * x**3 - 2.5 * x**2 + 1
            elif x < 2:
                matrix[row, column] = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return matrix / matrix.sum(1, keepdims=True)
