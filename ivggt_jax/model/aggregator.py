"""Alternating attention: frame blocks inside each frame, global blocks across frames (VGGT, arXiv 2503.11651, §3.2)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.clip import Clip, ClipMode, TokenMemoryT
from ivggt_jax.model.encoder import Encoder
from ivggt_jax.model.layers import Block, stack, unrolled
from ivggt_jax.model.rope import Rotation, rotation_table
from ivggt_jax.model.sensor import DepthPatches


class Aggregator(nnx.Module):
    """The encoder, then pairs of a frame block and a global block, stacked over layers and scanned."""

    depth_patches: DepthPatches
    """Only in a network with depth input."""

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
        if config.depth_input:
            self.depth_patches = DepthPatches(config, rngs=rngs)

    def clip(
        self,
        images: Shaped[Array, "B S H W 3"],
        mode: ClipMode,
        remat: bool = False,
        depth: Float[Array, "B S H W"] | None = None,
    ) -> Float[Array, "layer B S token width"]:
        """A whole clip at once: images [B,S,H,W,3] → outputs of `dpt_layers` [layer,B,S,P,2·width].

        `offline`: global blocks see all frames; `causal`: frame t sees frames ≤ t. With `remat` the backward pass recomputes each
        block from its input instead of storing its activations. `depth` [B,S,H,W] is as in `DepthPatches`.
        """
        batch, frames, height, width, _ = images.shape
        patches = self.encoder(images.reshape(batch * frames, height, width, 3))
        patches = patches.reshape(batch, frames, *patches.shape[1:])
        if depth is not None:
            patches = self.tell(patches, depth)
        first = jnp.broadcast_to(jnp.arange(frames) == 0, (batch, frames))

        tokens = self.tokens(patches, first)
        outputs, _ = self.alternate(tokens, height, width, Clip(frames, mode), remat)
        return outputs

    def tell(self, patches: Float[Array, "B S N width"], depth: Float[Array, "B S H W"]) -> Float[Array, "B S N width"]:
        """Patch tokens [B,S,N,width] with measured depth [B,S,H,W], in the stream's unit, added to them."""
        flat = patches.reshape(-1, *patches.shape[2:])
        return self.depth_patches(flat, depth.reshape(-1, *depth.shape[2:])).reshape(patches.shape)

    def tokens(
        self, patches: Float[Array, "B S N width"], first: Bool[Array, "B S"]
    ) -> Float[Array, "B S token width"]:
        """Tokens [B,S,P,width]: camera and register tokens, then patch tokens [B,S,N,width].

        `first` [B,S] marks first frames, which have special tokens of their own.
        """
        special = jnp.concatenate([self.camera_token[...], self.register_token[...]], axis=1).astype(patches.dtype)
        special = jnp.where(first[..., None, None], special[0], special[1])
        return jnp.concatenate([special, patches], axis=2)

    def rotation(self, height: int, width: int) -> Rotation:
        """The rotary position embedding of a frame's tokens."""
        config = self.config
        return rotation_table(
            *config.patch_grid(height, width), config.special_tokens, config.head_dim, config.rope_base
        )

    def alternate(
        self,
        tokens: Float[Array, "B S token width"],
        height: int,
        width: int,
        memory: TokenMemoryT,
        remat: bool = False,
    ) -> tuple[Float[Array, "layer B S token features"], TokenMemoryT]:
        """Run all pairs of blocks on tokens [B,S,P,width]; global blocks attend to the memory.

        Returns the outputs of `dpt_layers` [layer,B,S,P,2·width] and the memory. `remat` is as in `clip`.
        """
        config, rotation = self.config, self.rotation(height, width)
        batch, frames, count, features = tokens.shape
        # A layer whose output no head reads gets a row past the end, and its write is dropped.
        rows = np.full(config.depth, len(config.dpt_layers))
        rows[list(config.dpt_layers)] = range(len(config.dpt_layers))

        def pair(
            x: jax.Array, memory: TokenMemoryT, frame_block: Block, global_block: Block, layer: jax.Array
        ) -> tuple[jax.Array, jax.Array, TokenMemoryT]:
            within = frame_block(x, rotation)
            x, memory = across_frames(global_block, within, rotation, memory, layer)
            return x, jnp.concatenate([within, x], axis=-1), memory

        if remat:
            pair = jax.checkpoint(pair)

        def step(
            carry: tuple[jax.Array, jax.Array, TokenMemoryT], layers: tuple[Block, Block, jax.Array, jax.Array]
        ) -> tuple[tuple[jax.Array, jax.Array, TokenMemoryT], None]:
            x, outputs, memory = carry
            frame_block, global_block, layer, row = layers
            x, both, memory = pair(x, memory, frame_block, global_block, layer)
            outputs = outputs.at[row].set(both.reshape(outputs.shape[1:]), mode="drop")
            return (x, outputs, memory), None

        x = tokens.reshape(batch * frames, count, features)
        outputs = jnp.zeros((len(config.dpt_layers), batch, frames, count, 2 * features), x.dtype)
        layers = (self.frame_blocks, self.global_blocks, jnp.arange(config.depth), jnp.asarray(rows))
        (_, outputs, memory), _ = lax.scan(step, (x, outputs, memory), layers, unroll=unrolled() and not remat)
        return outputs, memory


def across_frames(
    block: Block, x: Float[Array, "frame token width"], rotation: Rotation, memory: TokenMemoryT, layer: Int[Array, ""]
) -> tuple[Float[Array, "frame token width"], TokenMemoryT]:
    """A global block on tokens x [B·S,P,width]. Returns the new tokens and the updated memory."""
    attended, memory = memory.attend(layer, *block.project(x, rotation))
    x = block.receive(x, attended)
    change = block.change(x)
    return x + change, memory.note(layer, x, change)
