"""Dense prediction transformer head (DPT, arXiv 2103.13413): tokens of four layers to a map at image resolution.

Float32. On a GPU convolutions and linear layers round their operands to TF32 unless `jax_default_matmul_precision` forbids it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ivggt_jax.config import ModelConfig
from ivggt_jax.kernels import platform
from ivggt_jax.model.layers import layer_norm, linear

UV_WEIGHT = 0.1

Tokens = Float[Array, "layer B N width"]


class DenseHead(nnx.Module):
    """DPT with an output per pixel: `channels` values and, optionally, a confidence."""

    def __init__(self, config: ModelConfig, channels: int, *, confidence: bool = True, rngs: nnx.Rngs):
        features = config.dpt_features
        self.pyramid = Pyramid(config, features, embed=True, rngs=rngs)
        self.reduce = conv(features, features // 2, rngs=rngs)
        self.output1 = conv(features // 2, 32, rngs=rngs)
        self.output2 = linear(32, channels + confidence, rngs=rngs)
        self.channels = channels

    def __call__(self, layers: Tokens, height: int, width: int) -> tuple[Float[Array, "B ..."], ...]:
        """Patch tokens [layer,B,N,2·width] → raw values [B,H,W,channels] and, if the head has one, confidence ≥ 1 [B,H,W]."""
        x = self.reduce(self.pyramid(layers, height, width))
        x = resize_aligned(x, height, width)
        x = x + UV_WEIGHT * uv_embedding(height, width, x.shape[-1], width / height)
        x = self.output2(jax.nn.relu(self.output1(x)))
        values = x[..., : self.channels]
        return (values,) if x.shape[-1] == self.channels else (values, 1 + jnp.exp(x[..., -1]))


class FeatureHead(nnx.Module):
    """DPT without position embedding or output layers: features at half the resolution, for the tracker."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.pyramid = Pyramid(config, config.track_features, embed=False, rngs=rngs)
        self.output = conv(config.track_features, config.track_features, rngs=rngs)

    def __call__(self, layers: Tokens, height: int, width: int) -> Float[Array, "B h w features"]:
        """Patch tokens [layer,B,N,2·width] → features [B,H/2,W/2,track_features]."""
        return resize_aligned(self.output(self.pyramid(layers, height, width)), height // 2, width // 2)


class Pyramid(nnx.Module):
    """Tokens of four layers as maps of four sizes, fused from coarse to fine."""

    def __init__(self, config: ModelConfig, features: int, *, embed: bool, rngs: nnx.Rngs):
        c1, c2, c3, c4 = config.dpt_channels
        self.patch_size = config.patch_size
        self.embed = embed
        self.norm = layer_norm(2 * config.width, epsilon=1e-5, rngs=rngs)
        self.projections = nnx.List([linear(2 * config.width, c, rngs=rngs) for c in config.dpt_channels])
        self.upsample4 = nnx.ConvTranspose(c1, c1, (4, 4), (4, 4), padding="VALID", transpose_kernel=True, rngs=rngs)
        self.upsample2 = nnx.ConvTranspose(c2, c2, (2, 2), (2, 2), padding="VALID", transpose_kernel=True, rngs=rngs)
        self.downsample = conv(c4, c4, stride=2, rngs=rngs)
        self.laterals = nnx.List([conv(c, features, use_bias=False, rngs=rngs) for c in (c1, c2, c3, c4)])
        self.fusions = nnx.List([Fusion(features, skip=i < 3, rngs=rngs) for i in range(4)])

    def __call__(self, layers: Tokens, height: int, width: int) -> Float[Array, "B h w features"]:
        """Patch tokens [layer,B,N,2·width] → features [B, 8h, 8w, features] for h·w patches."""
        rows, columns = height // self.patch_size, width // self.patch_size
        maps = []
        for tokens, project in zip(layers, self.projections, strict=True):
            x = project(self.norm(tokens.astype(jnp.float32)))
            x = x.reshape(-1, rows, columns, x.shape[-1])
            if self.embed:
                x = x + UV_WEIGHT * uv_embedding(rows, columns, x.shape[-1], width / height)
            maps.append(x)
        maps = [self.upsample4(maps[0]), self.upsample2(maps[1]), maps[2], halved(self.downsample, maps[3])]
        maps = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]

        x = self.fusions[3](maps[3], None, (rows, columns))
        x = self.fusions[2](x, maps[2], (2 * rows, 2 * columns))
        x = self.fusions[1](x, maps[1], (4 * rows, 4 * columns))
        return self.fusions[0](x, maps[0], (8 * rows, 8 * columns))


class Fusion(nnx.Module):
    """Add a finer map to a coarser one and resize the sum."""

    def __init__(self, features: int, *, skip: bool, rngs: nnx.Rngs):
        if skip:
            self.skip = Residual(features, rngs=rngs)
        self.residual = Residual(features, rngs=rngs)
        self.out = linear(features, features, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B h w features"], finer: Float[Array, "B h w features"] | None, size: tuple[int, int]
    ) -> Float[Array, "B rows columns features"]:
        """[B,h,w,features], with the finer map of the same shape or None → [B,*size,features]."""
        if finer is not None:
            x = x + self.skip(finer)
        # A 1×1 convolution commutes with interpolation, whose weights sum to one; it is applied first because the map is still
        # smaller.
        return resize_aligned(self.out(self.residual(x)), *size)


class Residual(nnx.Module):
    """Two convolutions with a skip connection, which carries relu(x), not x: the published network's ReLU is in place."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.conv1 = conv(features, features, rngs=rngs)
        self.conv2 = conv(features, features, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w features"]) -> Float[Array, "B h w features"]:
        """[B,h,w,features] → the same."""
        x = jax.nn.relu(x)
        return self.conv2(jax.nn.relu(self.conv1(x))) + x


def conv(features_in: int, features_out: int, stride: int = 1, use_bias: bool = True, *, rngs: nnx.Rngs) -> nnx.Conv:
    """3×3 convolution, padding 1."""
    return nnx.Conv(features_in, features_out, (3, 3), stride, padding=1, use_bias=use_bias, rngs=rngs)


def halved(layer: nnx.Conv, x: Float[Array, "B h w c"]) -> Float[Array, "B rows columns features"]:
    """A 3×3 convolution with stride 2 and padding 1, as one matrix product: [B,h,w,c] → half the rows and columns, rounded up.

    As a convolution, XLA on a GPU would write the kernel, 38 MB in the published network, in another order for every frame.
    """
    assert layer.bias is not None
    rows, columns = (-(-size // 2) for size in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = [x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for i in range(3) for j in range(3)]
    return jnp.concatenate(seen, axis=-1) @ layer.kernel[...].reshape(-1, layer.out_features) + layer.bias[...]


def resize_aligned(
    x: Float[Array, "B h w features"], height: int, width: int
) -> Float[Array, "B {height} {width} features"]:
    """Bilinear resize [B,h,w,C] → [B,height,width,C] with aligned corners."""
    if x.shape[1:3] == (height, width):
        return x
    if platform() == "gpu":
        return _between(_between(x, 1, height), 2, width)
    x = jnp.einsum("hr,brwc->bhwc", _interpolation(x.shape[1], height), x)
    return jnp.einsum("wr,bhrc->bhwc", _interpolation(x.shape[2], width), x)


def _between(x: jax.Array, axis: int, new_size: int) -> jax.Array:
    """Resize one axis in float32. For GPUs, where a matrix product would round its operands to TF32 and multiply mostly zeros."""
    lower, upper, fraction = _taps(x.shape[axis], new_size)
    fraction = fraction.reshape(-1, *[1] * (x.ndim - 1 - axis))
    return jnp.take(x, lower, axis) * (1 - fraction) + jnp.take(x, upper, axis) * fraction


def _taps(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new pixel its two old neighbours and the fraction between them, float32; corners are aligned."""
    position = np.arange(new_size) * ((size - 1) / max(new_size - 1, 1))
    lower = np.minimum(position.astype(int), size - 1)
    return lower, np.minimum(lower + 1, size - 1), (position - lower).astype(np.float32)


def _interpolation(size: int, new_size: int) -> np.ndarray:
    """Matrix [new_size,size] of linear interpolation with aligned corners."""
    lower, upper, fraction = _taps(size, new_size)
    matrix = np.zeros((new_size, size), np.float32)
    rows = np.arange(new_size)
    np.add.at(matrix, (rows, lower), 1 - fraction)
    np.add.at(matrix, (rows, upper), fraction)
    return matrix


def uv_embedding(rows: int, columns: int, features: int, aspect: float) -> Float[Array, "{rows} {columns} {features}"]:
    """Sinusoidal embedding [rows,columns,features] of pixel positions in an image with width/height `aspect`."""
    diagonal = np.sqrt(aspect**2 + 1)
    frequencies = 100.0 ** -(np.arange(features // 4) / (features / 4))

    def axis(count: int, span: float) -> np.ndarray:
        positions = np.linspace(-span * (count - 1) / count, span * (count - 1) / count, count)
        angles = positions[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)

    # Joined inside the program: as a constant the full-size embedding would take 104 MB.
    x, y = axis(columns, aspect / diagonal), axis(rows, 1 / diagonal)
    shape = (rows, columns, features // 2)
    return jnp.concatenate([jnp.broadcast_to(x[None, :], shape), jnp.broadcast_to(y[:, None], shape)], axis=-1)
