"""The camera head's cache: a ring over frames, the first frame pinned, an entry per trunk layer and iteration."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from ivggt_jax.kernels.attention import attend_once

CameraCacheMode = Literal["reference", "per_iteration"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CameraRing:
    """Keys and values of the camera trunk, [layer, batch, frame, iteration, head, head_dim]."""

    keys: jax.Array
    values: jax.Array

    @classmethod
    def empty(cls, layers: int, batch: int, frames: int, iterations: int, heads: int, head_dim: int) -> "CameraRing":
        """A ring that holds nothing. Float32, like the camera head."""
        shape = (layers, batch, frames, iterations, heads, head_dim)
        return cls(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))


def ring_slot(frame: jax.Array, frames: int) -> jax.Array:
    """Where a frame goes: 0 for the first, then round the others."""
    return jnp.where(frame == 0, 0, 1 + (frame - 1) % (frames - 1))


def attend_ring(
    ring: CameraRing,
    layer: jax.Array,
    iteration: int,
    frame: jax.Array,
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mode: CameraCacheMode,
) -> tuple[jax.Array, CameraRing]:
    """Store one iteration's keys and values [batch,1,head,head_dim] of frame [batch] and attend to what it may see.

    `reference`: all iterations of earlier frames and those of this frame so far; `per_iteration`: the same iteration of
    earlier frames and of this one. Returns what the query receives [batch,1,head,head_dim] and the ring.
    """
    _, batch, frames, iterations, heads, head_dim = ring.keys.shape
    entry = jnp.arange(batch)
    slot = ring_slot(frame, frames)
    ring = CameraRing(
        ring.keys.at[layer, entry, slot, iteration].set(keys[:, 0]),
        ring.values.at[layer, entry, slot, iteration].set(values[:, 0]),
    )
    place, turn = jnp.arange(frames), jnp.arange(iterations)
    own = (place == slot[:, None])[:, :, None]
    filled = (place <= frame[:, None])[:, :, None]
    visible = filled & (turn == iteration) if mode == "per_iteration" else filled & (~own | (turn <= iteration))
    seen = (batch, frames * iterations)
    attended = attend_once(
        query,
        ring.keys[layer].reshape(*seen, heads, head_dim),
        ring.values[layer].reshape(*seen, heads, head_dim),
        visible.reshape(seen),
    )
    return attended, ring
