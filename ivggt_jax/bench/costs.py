"""What a step must compute and move at least, counted by hand: a lower bound for any measurement.

Operations are multiplications and additions (two per pair) of matrix products, convolutions and interpolations, and of the
redundancy of cached keys. Norms, activations, softmax and rotations are left out; together they are less than 2 %. Bytes are
those that any program must move through memory: parameters once (the camera head's once per iteration, because each iteration
waits for the previous one), live keys and values, data between stages, frames and predictions. What could stay on the chip
between two layers of a stage is not counted.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jax.typing import DTypeLike

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.encoder import REGISTERS
from ivggt_jax.model.heads import DEFAULT_HEADS
from ivggt_jax.model.heads.camera import POSE
from ivggt_jax.model.parameters import abstract_params, flatten

FLOAT32 = 4
"""Bytes per number in the heads and between stages, whatever the trunk's type."""
OUTPUT_FEATURES = 32
"""Channels of a dense head's last map, at image size."""
TRUNK = {"encoder": "aggregator/encoder", "frame blocks": "aggregator/frame", "global blocks": "aggregator/global"}
"""Stages that run in the trunk's type, and the prefix of their parameters' paths."""
DENSE = {"depth": 1, "points": 3}
"""Dense heads and the channels of their maps, without confidence."""


@dataclass(frozen=True)
class Cost:
    """Work of one stage in one step."""

    operations: int
    bytes: int
    trunk: bool
    """Whether it runs in the trunk's type; heads run in float32."""

    def floor(self, rate: float, bandwidth: float) -> float:
        """Least time in seconds, at this many operations and bytes per second."""
        return max(self.operations / rate, self.bytes / bandwidth)


def step_costs(
    config: ModelConfig,
    height: int,
    width: int,
    *,
    live: int,
    batch: int = 1,
    trunk: DTypeLike = "float32",
    cached: DTypeLike | None = None,
    heads: Collection[str] = DEFAULT_HEADS,
    camera_frames: int = 512,
) -> dict[str, Cost]:
    """Costs of a step of `batch` streams, by stage.

    Args:
        live: tokens that each layer keeps after eviction, including the new frame's.
        trunk, cached: types of the trunk and of cached keys and values, by default the same; int8 adds a scale per head.
        heads: those of "camera", "depth" and "points" that are computed.
        camera_frames: frames in the camera ring, which is assumed to be full.
    """
    item, kept = np.dtype(trunk).itemsize, np.dtype(trunk if cached is None else cached).itemsize
    row = config.width * kept + (config.heads * FLOAT32 if kept == 1 else 0)
    weights = _weights(config)
    stages = _trunk_stages(config, height, width, live, row)
    read = {name: weights[path] * item for name, path in TRUNK.items()} | {"eviction": 0}
    if "camera" in heads:
        stages["camera head"] = _camera_head(config, camera_frames * config.camera_iterations)
        read["camera head"] = config.camera_iterations * weights["camera"] * FLOAT32
    if chosen := [head for head in DENSE if head in heads]:
        stages["dense heads"] = _dense_heads(config, height, width, chosen)
        read["dense heads"] = sum(weights[head] for head in chosen) * FLOAT32
    return {
        name: Cost(batch * operations, read[name] + batch * moved, name in TRUNK or name == "eviction")
        for name, (operations, moved) in stages.items()
    }


def _weights(config: ModelConfig) -> dict[str, int]:
    """Number of parameters under each path that a stage reads."""
    parameters = flatten(abstract_params(config))
    return {
        stage: sum(x.size for path, x in parameters.items() if path.startswith(stage))
        for stage in (*TRUNK.values(), "camera", *DENSE)
    }


def _trunk_stages(config: ModelConfig, height: int, width: int, live: int, row: int) -> dict[str, tuple[int, int]]:
    """Operations and moved bytes of one stream's frame in each stage of the trunk; a cached token's keys take `row` bytes."""
    tokens, channels, layers = config.tokens_per_frame(height, width), config.width, config.depth
    patches, rows = tokens - config.special_tokens, live + tokens
    block = _block(channels, config.mlp_ratio)
    seen = patches + 1 + REGISTERS
    embedding = 2 * patches * 3 * config.patch_size**2 * channels
    half_passed_on = _passed_on(config, tokens) // 2
    return {
        "encoder": (
            embedding + config.encoder_depth * (seen * block + _attention(seen, seen, channels)),
            3 * height * width + patches * channels * FLOAT32,
        ),
        "frame blocks": (layers * (tokens * block + _attention(tokens, tokens, channels)), half_passed_on),
        "global blocks": (
            layers * (tokens * block + _attention(tokens, live, channels)),
            2 * layers * rows * row + half_passed_on,
        ),
        # A key's norm, its contribution to the mean, its product with the mean; and as many moved rows as a frame has.
        "eviction": (layers * 6 * rows * channels, layers * (rows + 4 * tokens) * row),
    }


def _passed_on(config: ModelConfig, tokens: int) -> int:
    """Bytes of the layer outputs that the trunk passes to the dense heads: half from frame blocks, half from global ones."""
    return len(config.dpt_layers) * tokens * 2 * config.width * FLOAT32


def _camera_head(config: ModelConfig, ring: int) -> tuple[int, int]:
    """Operations and moved bytes of all iterations over a ring of `ring` entries."""
    moved = config.camera_iterations * config.camera_depth * 2 * ring * 2 * config.width * FLOAT32
    return _camera_operations(config, ring), moved


def _dense_heads(config: ModelConfig, height: int, width: int, chosen: Collection[str]) -> tuple[int, int]:
    """Operations and moved bytes of the chosen dense heads: the trunk's outputs for each, maps and confidences."""
    outputs = [DENSE[head] + 1 for head in chosen]
    operations = sum(_dense_operations(config, height, width, count) for count in outputs)
    made = sum(outputs) * height * width * FLOAT32
    return operations, len(outputs) * _passed_on(config, config.tokens_per_frame(height, width)) + made


def _block(features: int, mlp_ratio: int) -> int:
    """Operations of a transformer block's linear layers for one token: qkv, out and the MLP's two."""
    return 2 * (3 + 1 + 2 * mlp_ratio) * features**2


def _attention(queries: int, keys: int, features: int) -> int:
    """Operations for scores and weighted values of all heads."""
    return 2 * 2 * queries * keys * features


def _camera_operations(config: ModelConfig, ring: int) -> int:
    """Operations of all iterations over one camera token that attends to `ring` entries."""
    features = 2 * config.width
    modulation = 2 * POSE * features + 2 * features * 3 * features
    trunk = config.camera_depth * (_block(features, config.mlp_ratio) + _attention(1, ring, features))
    branch = 2 * features * features // 2 + 2 * features // 2 * POSE
    return config.camera_iterations * (modulation + trunk + branch)


def _dense_operations(config: ModelConfig, height: int, width: int, outputs: int) -> int:
    """Operations of a dense head with `outputs` outputs per pixel, for one frame."""
    rows, columns = config.patch_grid(height, width)
    features, (c1, c2, c3, c4) = config.dpt_features, config.dpt_channels
    patches = rows * columns
    half = ((rows + 1) // 2, (columns + 1) // 2)
    sizes = [half, *((scale * rows, scale * columns) for scale in (1, 2, 4, 8))]

    work = sum(2 * patches * 2 * config.width * c for c in config.dpt_channels)
    work += 2 * patches * (16 * c1**2 + 4 * c2**2)
    work += 2 * c4**2 * _taps(rows, 2) * _taps(columns, 2)
    work += sum(_convolution(c, features, *size) for c, size in zip((c4, c3, c2, c1), sizes, strict=False))
    for level, (size, larger) in enumerate(zip(sizes, sizes[1:], strict=False)):
        residuals = 1 if level == 0 else 2
        work += 2 * residuals * _convolution(features, features, *size)
        work += 2 * size[0] * size[1] * features**2 + _resize(size, larger, features)
    work += _convolution(features, features // 2, *sizes[-1]) + _resize(sizes[-1], (height, width), features // 2)
    work += _convolution(features // 2, OUTPUT_FEATURES, height, width)
    return work + 2 * height * width * OUTPUT_FEATURES * outputs


def _convolution(features_in: int, features_out: int, height: int, width: int) -> int:
    """Operations of a 3×3 convolution with padding 1, without products with the padding."""
    return 2 * features_in * features_out * _taps(height) * _taps(width)


def _taps(size: int, stride: int = 1) -> int:
    """Along one axis, the pairs of an output and one of its three inputs that is not padding."""
    outputs = (size - 1) // stride + 1
    beyond = (outputs - 1) * stride + 1 == size
    return 3 * outputs - 1 - beyond


def _resize(size: tuple[int, int], new_size: tuple[int, int], features: int) -> int:
    """Operations of interpolation, rows first: two products and a sum for each value and axis."""
    if size == new_size:
        return 0
    return 3 * features * new_size[0] * (size[1] + new_size[1])
