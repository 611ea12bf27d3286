"""Similarities and rotations, for NumPy arrays (float64 in evaluations) and JAX arrays (float32, under jit) alike.

A rigid transform is a [3, 4] matrix [R | t]; a similarity also has a scale. Everything is batched over leading axes.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Similarity:
    """The map x ↦ scale · rotation · x + translation; the default is the identity in NumPy arrays."""

    scale: Any = 1.0
    """[...]"""
    rotation: Any = field(default_factory=lambda: np.eye(3))
    """[..., 3, 3]"""
    translation: Any = field(default_factory=lambda: np.zeros(3))
    """[..., 3]"""

    @staticmethod
    def identity(*leading: int) -> "Similarity":
        """Identities [*leading], float32 on the device."""
        rotation = jnp.broadcast_to(jnp.eye(3), (*leading, 3, 3))
        return Similarity(jnp.ones(leading), rotation, jnp.zeros((*leading, 3)))

    def points(self, points: Any) -> Any:
        """Points [..., N, 3] transformed by the map; a single map also takes points [..., 3] with more leading axes."""
        return self._scale(2) * rotate(self.rotation[..., None, :, :], points) + self.translation[..., None, :]

    def poses(self, world_from_cam: Any) -> Any:
        """Cameras world_from_cam [..., 3, 4] moved by the map: it transforms positions; of the orientations it only rotates."""
        position = self.points(world_from_cam[..., None, :, 3])
        rotation = multiply(self.rotation, world_from_cam[..., :3])
        return _arrays(rotation).concatenate((rotation, position.swapaxes(-1, -2)), axis=-1)

    def after(self, first: "Similarity") -> "Similarity":
        """The map that applies `first` and then this one."""
        translation = self.points(first.translation[..., None, :])[..., 0, :]
        return Similarity(self.scale * first.scale, multiply(self.rotation, first.rotation), translation)

    def inverse(self) -> "Similarity":
        """The inverse map. A scale of zero has none."""
        rotation = self.rotation.swapaxes(-1, -2)
        return Similarity(1 / self.scale, rotation, -rotate(rotation, self.translation) / self._scale(1))

    def _scale(self, axes: int) -> Any:
        """The scale with `axes` trailing axes added."""
        return self.scale if isinstance(self.scale, float) else self.scale[(..., *(None,) * axes)]


def rotate(rotation: Any, vectors: Any) -> Any:
    """Vectors [..., 3] rotated by rotations [..., 3, 3], in full precision whatever the device's matmul default."""
    return sum(rotation[..., i] * vectors[..., i, None] for i in range(3))


def multiply(first: Any, second: Any) -> Any:
    """Products of matrices [..., 3, 3], in full precision."""
    return rotate(first[..., None, :, :], second.swapaxes(-1, -2)).swapaxes(-1, -2)


def rotation_from_vector(vector: jax.Array) -> jax.Array:
    """Rotations [..., 3, 3] from rotation vectors [..., 3] in radians (Rodrigues).

    Differentiable everywhere, including at 0.
    """
    squared = jnp.sum(vector * vector, axis=-1)[..., None, None]
    small = squared < 1e-6
    safe = jnp.where(small, 1, squared)
    angle = jnp.sqrt(safe)
    sine = jnp.where(small, 1 - squared / 6, jnp.sin(angle) / angle)
    versine = jnp.where(small, 0.5 - squared / 24, (1 - jnp.cos(angle)) / safe)
    cross = cross_matrix(vector)
    return jnp.eye(3, dtype=vector.dtype) + sine * cross + versine * multiply(cross, cross)


def cross_matrix(vector: jax.Array) -> jax.Array:
    """Matrices [..., 3, 3] of the cross product vector × …, for vectors [..., 3]."""
    x, y, z = (vector[..., i] for i in range(3))
    zero = jnp.zeros_like(x)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_angle(rotation: Any) -> Any:
    """Angles [...] in radians of rotations [..., 3, 3]; small angles are exact to rounding, and non-finite input gives NaN."""
    axis = _arrays(rotation).stack([rotation[..., k, j] - rotation[..., j, k] for j, k in ((1, 2), (2, 0), (0, 1))])
    trace = rotation[..., 0, 0] + rotation[..., 1, 1] + rotation[..., 2, 2]
    return _arrays(rotation).arctan2((axis**2).sum(0) ** 0.5, trace - 1)


def _arrays(array: Any) -> Any:
    """The module the array belongs to: numpy or jax.numpy."""
    return np if isinstance(array, np.ndarray) else jnp
