"""Alternating attention: frame blocks inside each frame, global blocks across frames (VGGT, arXiv 2503.11651, §3.2)."""

from collections.abc import Callable
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from ivggt_jax.config import ModelConfig
from ivggt_jax.kernels.attention import attend, attend_causal
from ivggt_jax.model.encoder import Encoder
from ivggt_jax.model.layers import Block, stack
from ivggt_jax.model.rope import rotation_table

Carry = TypeVar("Carry")
GlobalStep = Callable[[jax.Array, jax.Array, jax.Array, Carry, jax.Array], tuple[jax.Array, Carry]]
"""(query, keys, values, memory, layer) → (what the queries receive, memory)."""
GlobalNote = Callable[[jax.Array, jax.Array, Carry, jax.Array], Carry]
"""(tokens before the MLP of a global block, what the MLP adds to them, memory, layer) → memory."""


class Aggregator(nnx.Module):
    """Encoder and the pairs of frame and global block, stacked over layers and scanned."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        def block(rngs: nnx.Rngs) -> Block:
            return Block(config.width, config.heads, config.mlp_ratio, epsilon=1e-5, normalise_heads=True, rngs=rngs)

        normal = nnx.initializers.normal(0.02)
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.camera_token = nnx.Param(normal(rngs.params(), (2, 1, config.width)))
        self.register_token = nnx.Param(normal(rngs.params(), (2, config.register_tokens, config.width)))
        self.frame_blocks = stack(block, config.depth, rngs=rngs)
        self.global_blocks = stack(block, config.depth, rngs=rngs)

    def clip(self, images: jax.Array, mode: Literal["offline", "causal"], remat: bool = False) -> jax.Array:
        """A whole clip at once: images [B,S,H,W,3] → outputs of `dpt_layers` [layer,B,S,P,2·width].

        `offline`: global blocks see all frames; `causal`: frame t sees frames ≤ t. With `remat` the backward pass
        recomputes each block from its input instead of keeping what is inside.
        """
        batch, frames, height, width, _ = images.shape
        patches = self.encoder(images.reshape(batch * frames, height, width, 3))
        patches = patches.reshape(batch, frames, *patches.shape[1:])
        first = jnp.broadcast_to(jnp.arange(frames) == 0, (batch, frames))

        def across(query, keys, values, memory, layer):
            query, keys, values = (x.reshape(batch, -1, *x.shape[2:]) for x in (query, keys, values))
            attended = attend(query, keys, values) if mode == "offline" else attend_causal(query, keys, values, frames)
            return attended.reshape(batch * frames, -1, *attended.shape[2:]), memory

        tokens = self.tokens(patches, first)
        outputs, _ = self.alternate(tokens, height, width, across, None, remat)
        return outputs

    def tokens(self, patches: jax.Array, first: jax.Array) -> jax.Array:
        """Camera and register tokens in front of patch tokens [B,S,N,width]; `first` [B,S] marks first frames."""
        special = jnp.concatenate([self.camera_token[...], self.register_token[...]], axis=1).astype(patches.dtype)
        special = jnp.where(first[..., None, None], special[0], special[1])
        return jnp.concatenate([special, patches], axis=2)

    def alternate(
        self,
        tokens: jax.Array,
        height: int,
        width: int,
        across: GlobalStep,
        memory: Carry,
        remat: bool = False,
        note: GlobalNote | None = None,
    ) -> tuple[jax.Array, Carry]:
        """Run all pairs of blocks on tokens [B,S,P,width]; `across` is how a global block attends.

        With `note`, the memory also learns what that block's MLP does. Returns the outputs of `dpt_layers`
        [layer,B,S,P,2·width] and the memory.
        """
        config = self.config
        batch, frames, count, features = tokens.shape
        rotation = rotation_table(
            *config.patch_grid(height, width), config.special_tokens, config.head_dim, config.rope_base
        )
        # Layers whose output no head reads write past the end, which drops them.
        row = np.full(config.depth, len(config.dpt_layers))
        row[list(config.dpt_layers)] = range(len(config.dpt_layers))

        def pair(x: jax.Array, memory: Carry, frame_block: Block, global_block: Block, layer: jax.Array):
            x = within = frame_block(x, rotation)
            attended, memory = across(*global_block.project(x, rotation), memory, layer)
            x = global_block.receive(x, attended)
            change = global_block.change(x)
            if note is not None:
                memory = note(x, change, memory, layer)
            x = x + change
            return x, jnp.concatenate([within, x], axis=-1), memory

        if remat:
            pair = jax.checkpoint(pair)

        def step(carry, layer_inputs):
            x, outputs, memory = carry
            frame_block, global_block, layer, row = layer_inputs
            x, both, memory = pair(x, memory, frame_block, global_block, layer)
            outputs = outputs.at[row].set(both.reshape(outputs.shape[1:]), mode="drop")
            return (x, outputs, memory), None

        x = tokens.reshape(batch * frames, count, features)
        outputs = jnp.zeros((len(config.dpt_layers), batch, frames, count, 2 * features), x.dtype)
        layers = (self.frame_blocks, self.global_blocks, jnp.arange(config.depth), row)
        (_, outputs, memory), _ = lax.scan(step, (x, outputs, memory), layers)
        return outputs, memory
