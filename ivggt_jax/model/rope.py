"""Two-axis rotary position embedding: half of a head rotates with the row, half with the column (RoFormer, arXiv 2104.09864)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Rotation = tuple[np.ndarray, np.ndarray]
"""Cosines and sines, each [token, 1, 2, 1, head_dim/4]."""


def rotation_table(rows: int, columns: int, special_tokens: int, head_dim: int, base: float) -> Rotation:
    """Cosines and sines for the tokens of a frame: special tokens are at position 0, patch positions start at 1."""
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2) + 1
    positions = np.concatenate([np.zeros((special_tokens, 2), grid.dtype), grid])
    quarter = head_dim // 4
    # The last step is in float32, like the angles of the published networks.
    frequencies = (1.0 / base ** (np.arange(quarter, dtype=np.float32) / np.float32(quarter))).astype(np.float32)
    angles = positions.astype(np.float32)[:, :, None] * frequencies
    angles = angles[:, None, :, None, :]
    return np.cos(angles), np.sin(angles)


def rotate(
    x: Float[Array, "*axes token head head_dim"], rotation: Rotation
) -> Float[Array, "*axes token head head_dim"]:
    """Rotate `x` [..., token, head, head_dim] by its token's position; computed in float32, returned in x's dtype."""
    cosine, sine = rotation
    halves = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, 2, x.shape[-1] // 4)
    first, second = halves[..., :1, :], halves[..., 1:, :]
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-2)
    return turned.reshape(x.shape).astype(x.dtype)
