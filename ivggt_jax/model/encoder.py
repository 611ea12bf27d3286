"""Image patches to tokens: a DINOv2 vision transformer with registers (arXiv 2304.07193, 2309.16588)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float32, Shaped

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.layers import Block, layer_norm, linear, stack, unrolled

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
REGISTERS = 4
"""Register tokens of the encoder; the aggregator has its own."""


class Encoder(nnx.Module):
    """Patch tokens of each frame; frames do not see each other."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width, side = config.width, config.image_size // config.patch_size
        normal = nnx.initializers.normal(0.02)
        self.patch_size = config.patch_size
        self.patch_projection = linear(3 * config.patch_size**2, width, rngs=rngs)
        self.class_token = nnx.Param(normal(rngs.params(), (1, width)))
        self.position_table = nnx.Param(normal(rngs.params(), (1 + side * side, width)))
        self.register_tokens = nnx.Param(normal(rngs.params(), (REGISTERS, width)))
        # From DINOv2's pre-training. Never used, but kept so that converting a checkpoint loses nothing.
        self.mask_token = nnx.Param(jnp.zeros((1, width)))
        self.blocks = stack(
            lambda rngs: Block(
                width, config.encoder_heads, config.mlp_ratio, epsilon=1e-6, normalise_heads=False, rngs=rngs
            ),
            config.encoder_depth,
            rngs=rngs,
        )
        self.norm = layer_norm(width, epsilon=1e-6, rngs=rngs)

    def __call__(self, images: Shaped[Array, "B H W 3"]) -> Float32[Array, "B patch width"]:
        """Images [B,H,W,3] in [0,1] → float32 patch tokens [B, H/14·W/14, width]."""
        dtype = self.patch_projection.kernel.dtype
        batch, height, width, _ = images.shape
        size = self.patch_size
        rows, columns = height // size, width // size
        pixels = (images.astype(jnp.float32) - jnp.array(MEAN)) / jnp.array(STD)
        patches = pixels.reshape(batch, rows, size, columns, size, 3).transpose(0, 1, 3, 2, 4, 5)
        tokens = self.patch_projection(patches.reshape(batch, rows * columns, -1).astype(dtype))

        first, positions = self._positions(rows, columns)
        front = jnp.concatenate([self.class_token + first, self.register_tokens.astype(jnp.float32)])
        front = jnp.broadcast_to(front, (batch, *front.shape))
        tokens = jnp.concatenate([front, tokens.astype(jnp.float32) + positions], axis=1)
        tokens, _ = lax.scan(lambda x, block: (block(x), None), tokens, self.blocks, unroll=unrolled())
        return self.norm(tokens)[:, 1 + REGISTERS :]

    def _positions(
        self, rows: int, columns: int
    ) -> tuple[Float32[Array, "1 width"], Float32[Array, "{rows}*{columns} width"]]:
        """Position embeddings of the class token [1,width] and of the patches [rows·columns,width], resized to this grid."""
        table = self.position_table.astype(jnp.float32)
        first, grid = table[:1], table[1:]
        side = round(grid.shape[0] ** 0.5)
        grid = grid.reshape(side, side, -1)
        if (rows, columns) != (side, side):
            grid = jax.image.resize(grid, (rows, columns, grid.shape[-1]), "cubic")
        return first, grid.reshape(rows * columns, -1)
