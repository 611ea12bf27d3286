"""Building blocks shared by encoder, aggregator and camera head. Matrix products use the parameters' type."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from ivggt_jax.kernels import platform
from ivggt_jax.kernels.attention import attend
from ivggt_jax.model.rope import Rotation, rotate

ModuleT = TypeVar("ModuleT", bound=nnx.Module)
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""Query, keys and values [B,N,H,D] → attention output [B,N,H,D]."""


def layer_norm(features: int, *, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with the two-pass variance; the one-pass default loses precision."""
    return nnx.LayerNorm(features, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def gelu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """The exact GELU, x·Φ(x), in float32 at least. Uses erf like PyTorch: XLA is slower with the erfc of `jax.nn.gelu`."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * wide * (1 + lax.erf(math.sqrt(0.5) * wide))).astype(x.dtype)


def linear(features_in: int, features_out: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """Linear layer, initialised as in vision transformers (normal, 1/√fan-in)."""
    return nnx.Linear(features_in, features_out, kernel_init=nnx.initializers.lecun_normal(), rngs=rngs)


class Mlp(nnx.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, features: int, hidden: int, features_out: int | None = None, *, rngs: nnx.Rngs):
        self.fc1 = linear(features, hidden, rngs=rngs)
        self.fc2 = linear(hidden, features_out or features, rngs=rngs)

    def __call__(self, x: Float[Array, "*axes features"]) -> Float[Array, "*axes features_out"]:
        """[..., features] → [..., features_out]."""
        return self.fc2(gelu(self.fc1(x)))


class Block(nnx.Module):
    """Pre-norm transformer block with LayerScale; the caller supplies the attention.

    `x` [B,N,features] is the residual stream, float32 whatever the parameters' type. Norms and additions use the type of x,
    matrix products that of the parameters: as in PyTorch's autocast, under which the published networks run.

    Calling the block is `finish(x, attend(*project(x)))`; a stream inserts its cache between the two. `finish` is `receive`
    followed by adding the `change`.
    """

    def __init__(
        self, features: int, heads: int, mlp_ratio: int, *, epsilon: float, normalise_heads: bool, rngs: nnx.Rngs
    ):
        self.heads = heads
        self.norm1 = layer_norm(features, epsilon=epsilon, rngs=rngs)
        self.qkv = linear(features, 3 * features, rngs=rngs)
        if normalise_heads:
            self.query_norm = layer_norm(features // heads, epsilon=1e-5, rngs=rngs)
            self.key_norm = layer_norm(features // heads, epsilon=1e-5, rngs=rngs)
        self.normalise_heads = normalise_heads
        self.out = linear(features, features, rngs=rngs)
        self.scale1 = nnx.Param(jnp.full(features, 0.1))
        self.norm2 = layer_norm(features, epsilon=epsilon, rngs=rngs)
        self.mlp = Mlp(features, mlp_ratio * features, rngs=rngs)
        self.scale2 = nnx.Param(jnp.full(features, 0.1))

    def project(
        self, x: Float[Array, "*B N features"], rotation: Rotation | None = None
    ) -> tuple[
        Float[Array, "*B N head head_dim"], Float[Array, "*B N head head_dim"], Float[Array, "*B N head head_dim"]
    ]:
        """Query, keys and values [B,N,head,head_dim]; normalised per head and rotated if the block does so."""
        qkv = self.qkv(self.norm1(x).astype(self.qkv.kernel.dtype))
        qkv = qkv.reshape(*x.shape[:-1], 3, self.heads, -1)
        query, keys, values = qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]
        if self.normalise_heads:
            query, keys = self.query_norm(query), self.key_norm(keys)
        if rotation is not None:
            query, keys = rotate(query, rotation), rotate(keys, rotation)
        return query, keys, values

    def finish(
        self, x: Float[Array, "*B N features"], attended: Float[Array, "*B N head head_dim"]
    ) -> Float[Array, "*B N features"]:
        """Add the attention output [B,N,head,head_dim], then the MLP."""
        x = self.receive(x, attended)
        return x + self.change(x)

    def receive(
        self, x: Float[Array, "*B N features"], attended: Float[Array, "*B N head head_dim"]
    ) -> Float[Array, "*B N features"]:
        """Add the attention output [B,N,head,head_dim]."""
        return x + self.scale1.astype(x.dtype) * self.out(attended.reshape(x.shape))

    def change(self, x: Float[Array, "*B N features"]) -> Float[Array, "*B N features"]:
        """What the MLP adds to `x` [B,N,features]."""
        return self.scale2.astype(x.dtype) * self.mlp(self.norm2(x).astype(self.qkv.kernel.dtype))

    def __call__(
        self, x: Float[Array, "*B N features"], rotation: Rotation | None = None, attend: Attend = attend
    ) -> Float[Array, "*B N features"]:
        """[B,N,features] → the same."""
        return self.finish(x, attend(*self.project(x, rotation)))


def unrolled() -> bool:
    """Whether to unroll a scan over stacked layers: on a GPU its loop would copy each layer's weights out of the stack.

    On a CPU the loop copies nothing, and one layer is compiled for all.
    """
    return platform() == "gpu"


def stack(make: Callable[[nnx.Rngs], ModuleT], count: int, *, rngs: nnx.Rngs) -> ModuleT:
    """`count` modules as one module whose parameters have a leading layer axis, for a scan over layers."""
    return jax.vmap(lambda key: make(nnx.Rngs(key)))(jax.random.split(rngs.params(), count))
