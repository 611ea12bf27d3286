"""Camera head: iterative refinement of a frame's pose encoding from its camera token (VGGT §3.3). Float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.clip import Clip, ClipMode, MemoryT
from ivggt_jax.model.layers import Block, Mlp, layer_norm, linear, stack, unrolled

POSE = 9
"""Translation 3, quaternion xyzw 4, field of view (vertical, horizontal) 2."""


class CameraHead(nnx.Module):
    """Pose encodings of a whole clip, or of one frame against a camera cache."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        features = 2 * config.width
        self.iterations = config.camera_iterations
        self.token_norm = layer_norm(features, epsilon=1e-5, rngs=rngs)
        self.empty_pose = nnx.Param(jnp.zeros((1, POSE)))
        self.embed_pose = linear(POSE, features, rngs=rngs)
        self.modulation = linear(features, 3 * features, rngs=rngs)
        self.trunk = stack(
            lambda rngs: Block(
                features, config.camera_heads, config.mlp_ratio, epsilon=1e-5, normalise_heads=False, rngs=rngs
            ),
            config.camera_depth,
            rngs=rngs,
        )
        self.trunk_norm = layer_norm(features, epsilon=1e-5, rngs=rngs)
        self.pose_branch = Mlp(features, features // 2, POSE, rngs=rngs)
        # Untrained, the iterations add up to the identity pose with a field of view of one radian.
        identity = jnp.array([0, 0, 0, 0, 0, 0, 1, 1, 1], jnp.float32)
        self.pose_branch.fc2.kernel = nnx.Param(jnp.zeros((features // 2, POSE)))
        self.pose_branch.fc2.bias = nnx.Param(identity / config.camera_iterations)

    def clip(self, tokens: Float[Array, "B S features"], mode: ClipMode) -> Float[Array, "iteration B S 9"]:
        """Camera tokens [B,S,2·width] → activated pose encodings of every iteration [iteration,B,S,9]."""
        return self.refine(tokens, Clip(tokens.shape[1], mode))[0]

    def refine(
        self, tokens: Float[Array, "B S features"], memory: MemoryT
    ) -> tuple[Float[Array, "iteration B S 9"], MemoryT]:
        """Run all iterations on camera tokens [B,S,2·width]; each passes once through the trunk's layers.

        Returns the activated encodings [iteration,B,S,9] and the memory.
        """
        batch, frames, features = tokens.shape
        tokens = self.token_norm(tokens.astype(jnp.float32)).reshape(batch * frames, 1, features)
        plain = _standardise(tokens)
        pose = jnp.zeros((batch * frames, 1, POSE), jnp.float32)
        layers = jnp.arange(jax.tree.leaves(self.trunk)[0].shape[0])

        def step(
            carry: tuple[jax.Array, MemoryT], inputs: tuple[Block, jax.Array]
        ) -> tuple[tuple[jax.Array, MemoryT], None]:
            (x, memory), (block, layer) = carry, inputs
            attended, memory = memory.attend(layer, *block.project(x))
            return (block.finish(x, attended), memory), None

        poses = []
        for iteration in range(self.iterations):
            pose = lax.stop_gradient(pose)
            embedded = jnp.broadcast_to(self.empty_pose[...], pose.shape) if iteration == 0 else pose
            shift, scale, gate = jnp.split(self.modulation(jax.nn.silu(self.embed_pose(embedded))), 3, axis=-1)
            x = gate * (plain * (1 + scale) + shift) + tokens
            inputs = self.trunk, iteration * layers.size + layers
            (x, memory), _ = lax.scan(step, (x, memory), inputs, unroll=unrolled())
            pose = pose + self.pose_branch(self.trunk_norm(x))
            poses.append(_activate(pose).reshape(batch, frames, POSE))
        return jnp.stack(poses), memory


def _activate(pose: Float[Array, "*axes 9"]) -> Float[Array, "*axes 9"]:
    """Clamp the field of view to be non-negative; translation and quaternion stay as they are."""
    return jnp.concatenate([pose[..., :7], jax.nn.relu(pose[..., 7:])], axis=-1)


def _standardise(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """LayerNorm without parameters, epsilon 1e-6."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
