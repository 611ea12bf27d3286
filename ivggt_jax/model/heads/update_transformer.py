"""The tracker's transformer: attention over time, then among points through virtual tracks (CoTracker, arXiv 2307.07635)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from ivggt_jax.config import ModelConfig
from ivggt_jax.kernels.attention import attend, attend_masked
from ivggt_jax.model.layers import Mlp, layer_norm, linear, stack


class UpdateTransformer(nnx.Module):
    """Tokens of all points in all frames → changes of their positions and features."""

    def __init__(self, config: ModelConfig, features_in: int, features_out: int, *, rngs: nnx.Rngs):
        hidden, heads = config.track_hidden, config.track_heads
        self.input_norm = layer_norm(features_in, epsilon=1e-5, rngs=rngs)
        self.input = linear(features_in, hidden, rngs=rngs)
        self.virtual_tracks = nnx.Param(jax.random.normal(rngs.params(), (config.track_virtual, hidden)))
        self.layers = stack(
            lambda rngs: UpdateLayer(hidden, heads, config.mlp_ratio, rngs=rngs), config.track_depth, rngs=rngs
        )
        self.output_norm = layer_norm(hidden, epsilon=1e-5, rngs=rngs)
        # Near zero, so that an untrained tracker leaves points about where they are.
        self.output = nnx.Linear(hidden, features_out, kernel_init=nnx.initializers.normal(1e-3), rngs=rngs)

    def __call__(
        self, tokens: Float[Array, "B S N features_in"], live: Bool[Array, "B S"] | None = None
    ) -> Float[Array, "B S N features_out"]:
        """Tokens [B,S,N,features_in] → changes [B,S,N,features_out]; frames not live (bool [B,S]) do not influence others."""
        tokens = self.input(self.input_norm(tokens))
        batch, frames, points, hidden = tokens.shape
        virtual = jnp.broadcast_to(self.virtual_tracks[...], (batch, frames, *self.virtual_tracks.shape))

        def body(x: jax.Array, layer: UpdateLayer) -> tuple[jax.Array, None]:
            return layer(x, points, live), None

        x, _ = lax.scan(body, jnp.concatenate([tokens, virtual], axis=2), self.layers)
        return self.output(self.output_norm(x[:, :, :points] + tokens))


class UpdateLayer(nnx.Module):
    """Each track attends over its frames; then, in each frame, virtual tracks pass information between points."""

    def __init__(self, features: int, heads: int, mlp_ratio: int, *, rngs: nnx.Rngs):
        self.time = MixingBlock(features, heads, mlp_ratio, rngs=rngs)
        self.virtual_from_points = MixingBlock(features, heads, mlp_ratio, cross=True, rngs=rngs)
        self.virtual = MixingBlock(features, heads, mlp_ratio, rngs=rngs)
        self.points_from_virtual = MixingBlock(features, heads, mlp_ratio, cross=True, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B S track features"], points: int, live: Bool[Array, "B S"] | None = None
    ) -> Float[Array, "B S track features"]:
        """[B,S,tracks,features] → the same shape; the first `points` tracks are points, the others virtual."""
        x = self.time(x.swapaxes(1, 2), mask=None if live is None else live[:, None]).swapaxes(1, 2)
        point, virtual = x[:, :, :points], x[:, :, points:]
        virtual = self.virtual(self.virtual_from_points(virtual, point))
        return jnp.concatenate([self.points_from_virtual(point, virtual), virtual], axis=2)


class MixingBlock(nnx.Module):
    """Attention and MLP. Unlike in a pre-norm block, the residual starts from the *normalised* input."""

    def __init__(self, features: int, heads: int, mlp_ratio: int, *, cross: bool = False, rngs: nnx.Rngs):
        self.heads = heads
        self.norm1 = layer_norm(features, epsilon=1e-5, rngs=rngs)
        if cross:
            self.context_norm = layer_norm(features, epsilon=1e-5, rngs=rngs)
        self.qkv = linear(features, 3 * features, rngs=rngs)
        self.out = linear(features, features, rngs=rngs)
        self.norm2 = layer_norm(features, epsilon=1e-5, rngs=rngs)
        self.mlp = Mlp(features, mlp_ratio * features, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "*axes Q features"],
        context: Float[Array, "*axes K features"] | None = None,
        mask: Bool[Array, "..."] | None = None,
    ) -> Float[Array, "*axes Q features"]:
        """x [...,Q,features] attends to itself, or to context [...,K,features], where mask [...,K] is True."""
        x = self.norm1(x)
        context = x if context is None else self.context_norm(context)
        x = x + self.out(self._attend(x, context, mask))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: jax.Array, context: jax.Array, mask: jax.Array | None) -> jax.Array:
        features = x.shape[-1]
        assert self.qkv.bias is not None  # Linear's default
        kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]
        query = x @ kernel[:, :features] + bias[:features]
        keys, values = jnp.split(context @ kernel[:, features:] + bias[features:], 2, axis=-1)
        query, keys, values = (
            y.reshape(-1, y.shape[-2], self.heads, features // self.heads) for y in (query, keys, values)
        )
        if mask is None:
            return attend(query, keys, values).reshape(x.shape)
        mask = jnp.broadcast_to(mask, context.shape[:-1]).reshape(-1, context.shape[-2])
        return attend_masked(query, keys, values, mask).reshape(x.shape)
