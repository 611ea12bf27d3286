"""The camera head's cache: a ring buffer over frames that keeps the first frame, with an entry per trunk layer and iteration."""

from dataclasses import dataclass, field, replace
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
        """An empty ring. Float32, like the camera head."""
        shape = (layers, batch, frames, iterations, heads, head_dim)
        return cls(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))


def ring_slot(frame: Int[Array, "*batch"], frames: int) -> Int[Array, "*batch"]:
    """Slot of a frame: 0 for the first; the others cycle through the remaining slots."""
    return jnp.where(frame == 0, 0, 1 + (frame - 1) % (frames - 1))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CameraMemory:
    """The ring while one frame of each stream passes the camera head (a `model.clip.Memory`)."""

    ring: CameraRing
    frame: jax.Array
    """[batch] int32: the frame's number in its stream, from 0."""
    mode: CameraCacheMode = field(metadata={"static": True})
    """`reference`: an iteration sees all iterations of earlier frames and those of this frame so far; `per_iteration`: the same
    iteration of earlier frames and of this one."""

    def attend(
        self,
        layer: Int[Array, ""],
        query: Float[Array, "batch 1 head head_dim"],
        keys: Float[Array, "batch 1 head head_dim"],
        values: Float[Array, "batch 1 head head_dim"],
    ) -> tuple[Float[Array, "batch 1 head head_dim"], "CameraMemory"]:
        """Store keys and values [batch,1,head,head_dim] and attend to what is visible; layer = iteration · layers + trunk
        layer."""
        layers, batch, frames, iterations, heads, head_dim = self.ring.keys.shape
        iteration, layer = layer // layers, layer % layers
        entry = jnp.arange(batch)
        slot = ring_slot(self.frame, frames)
        ring = CameraRing(
            self.ring.keys.at[layer, entry, slot, iteration].set(keys[:, 0]),
            self.ring.values.at[layer, entry, slot, iteration].set(values[:, 0]),
        )
        place, turn = jnp.arange(frames), jnp.arange(iterations)
        own = (place == slot[:, None])[:, :, None]
        filled = (place <= self.frame[:, None])[:, :, None]
        one_turn = self.mode == "per_iteration"
        visible = filled & ((turn == iteration) if one_turn else (~own | (turn <= iteration)))
        seen = (batch, frames * iterations)
        attended = attend_once(
            query,
            ring.keys[layer].reshape(*seen, heads, head_dim),
            ring.values[layer].reshape(*seen, heads, head_dim),
            visible.reshape(seen),
        )
        return attended, replace(self, ring=ring)
