"""The name table: which PyTorch tensors make up each of our parameters, and their layout there."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ivggt_jax.config import ModelConfig

TRUNK = "aggregator"
HEAD_MODULES = {"camera": "camera_head", "depth": "depth_head", "points": "point_head", "tracks": "track_head"}
"""PyTorch's module name of each of our heads."""

Transform = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Layout:
    """Transforms of one tensor from PyTorch and back."""

    from_torch: Transform
    to_torch: Transform


@dataclass(frozen=True)
class Entry:
    """One of our parameters: its PyTorch tensors, which are stacked along a new first axis if there are several layers."""

    names: tuple[str, ...]
    layout: Layout
    stacked: bool


def _patch_to_torch(x: np.ndarray) -> np.ndarray:
    size = round((x.shape[0] / 3) ** 0.5)
    return x.reshape(size, size, 3, -1).transpose(3, 2, 0, 1)


SAME = Layout(lambda x: x, lambda x: x)
BATCHED = Layout(lambda x: x[0], lambda x: x[None])
TRACKS = Layout(lambda x: x[0, :, 0], lambda x: x[None, :, None])
LINEAR = Layout(lambda x: x.T, lambda x: x.T)
POINTWISE = Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])
CONV = Layout(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
PATCH = Layout(lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]), _patch_to_torch)


class _Table:
    """Collects entries; `layers` is the number of layers that "#" in a name runs over."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def add(self, ours: str, torch: str, layout: Layout = SAME, layers: int | None = None) -> None:
        names = (torch,) if layers is None else tuple(torch.replace("#", str(i)) for i in range(layers))
        self.entries[ours] = Entry(names, layout, layers is not None)

    def weights(self, ours: str, torch: str, layout: Layout = LINEAR, layers: int | None = None) -> None:
        self.add(f"{ours}/kernel", f"{torch}.weight", layout, layers)
        self.add(f"{ours}/bias", f"{torch}.bias", SAME, layers)

    def norm(self, ours: str, torch: str, layers: int | None = None) -> None:
        self.add(f"{ours}/scale", f"{torch}.weight", SAME, layers)
        self.add(f"{ours}/bias", f"{torch}.bias", SAME, layers)

    def mlp(self, ours: str, torch: str, layers: int | None = None) -> None:
        for part in ("fc1", "fc2"):
            self.weights(f"{ours}/{part}", f"{torch}.{part}", LINEAR, layers)

    def blocks(self, ours: str, torch: str, layers: int, normalise_heads: bool) -> None:
        for number in (1, 2):
            self.norm(f"{ours}/norm{number}", f"{torch}.#.norm{number}", layers)
            self.add(f"{ours}/scale{number}", f"{torch}.#.ls{number}.gamma", SAME, layers)
        if normalise_heads:
            self.norm(f"{ours}/query_norm", f"{torch}.#.attn.q_norm", layers)
            self.norm(f"{ours}/key_norm", f"{torch}.#.attn.k_norm", layers)
        self.weights(f"{ours}/qkv", f"{torch}.#.attn.qkv", LINEAR, layers)
        self.weights(f"{ours}/out", f"{torch}.#.attn.proj", LINEAR, layers)
        self.mlp(f"{ours}/mlp", f"{torch}.#.mlp", layers)


def name_table(config: ModelConfig) -> dict[str, Entry]:
    """Every path of our parameters ("/"-joined) with its origin. Together they use each checkpoint name once."""
    table = _Table()
    _aggregator(table, config)
    _camera(table, config)
    for ours, torch in (("depth", "depth_head"), ("points", "point_head")):
        _pyramid(table, ours, torch)
        table.weights(f"{ours}/reduce", f"{torch}.scratch.output_conv1", CONV)
        table.weights(f"{ours}/output1", f"{torch}.scratch.output_conv2.0", CONV)
        table.weights(f"{ours}/output2", f"{torch}.scratch.output_conv2.2", POINTWISE)
    _pyramid(table, "track_features", "track_head.feature_extractor")
    table.weights("track_features/output", "track_head.feature_extractor.scratch.output_conv1", CONV)
    _tracker(table, config)
    return table.entries


def _aggregator(table: _Table, config: ModelConfig) -> None:
    table.add("aggregator/camera_token", "aggregator.camera_token", BATCHED)
    table.add("aggregator/register_token", "aggregator.register_token", BATCHED)
    for blocks in ("frame_blocks", "global_blocks"):
        table.blocks(f"aggregator/{blocks}", f"aggregator.{blocks}", config.depth, normalise_heads=True)
    ours, torch = "aggregator/encoder", "aggregator.patch_embed"
    table.weights(f"{ours}/patch_projection", f"{torch}.patch_embed.proj", PATCH)
    table.add(f"{ours}/class_token", f"{torch}.cls_token", BATCHED)
    table.add(f"{ours}/position_table", f"{torch}.pos_embed", BATCHED)
    table.add(f"{ours}/register_tokens", f"{torch}.register_tokens", BATCHED)
    table.add(f"{ours}/mask_token", f"{torch}.mask_token")
    table.blocks(f"{ours}/blocks", f"{torch}.blocks", config.encoder_depth, normalise_heads=False)
    table.norm(f"{ours}/norm", f"{torch}.norm")


def _camera(table: _Table, config: ModelConfig) -> None:
    table.norm("camera/token_norm", "camera_head.token_norm")
    table.add("camera/empty_pose", "camera_head.empty_pose_tokens", BATCHED)
    table.weights("camera/embed_pose", "camera_head.embed_pose")
    table.weights("camera/modulation", "camera_head.poseLN_modulation.1")
    table.blocks("camera/trunk", "camera_head.trunk", config.camera_depth, normalise_heads=False)
    table.norm("camera/trunk_norm", "camera_head.trunk_norm")
    table.mlp("camera/pose_branch", "camera_head.pose_branch")


def _pyramid(table: _Table, ours: str, torch: str) -> None:
    table.norm(f"{ours}/pyramid/norm", f"{torch}.norm")
    for i in range(4):
        table.weights(f"{ours}/pyramid/projections/{i}", f"{torch}.projects.{i}", POINTWISE)
        table.add(f"{ours}/pyramid/laterals/{i}/kernel", f"{torch}.scratch.layer{i + 1}_rn.weight", CONV)
        fusion, block = f"{ours}/pyramid/fusions/{i}", f"{torch}.scratch.refinenet{i + 1}"
        for conv in ("conv1", "conv2"):
            if i < 3:
                table.weights(f"{fusion}/skip/{conv}", f"{block}.resConfUnit1.{conv}", CONV)
            table.weights(f"{fusion}/residual/{conv}", f"{block}.resConfUnit2.{conv}", CONV)
        table.weights(f"{fusion}/out", f"{block}.out_conv", POINTWISE)
    for name, i in (("upsample4", 0), ("upsample2", 1), ("downsample", 3)):
        # PyTorch stores a transposed convolution's kernel as that of the convolution it transposes, as we do.
        table.weights(f"{ours}/pyramid/{name}", f"{torch}.resize_layers.{i}", CONV)


def _tracker(table: _Table, config: ModelConfig) -> None:
    torch = "track_head.tracker"
    table.norm("tracker/map_norm", f"{torch}.fmap_norm")
    table.mlp("tracker/correlation_mlp", f"{torch}.corr_mlp")
    table.add("tracker/frame_tokens", f"{torch}.query_ref_token", BATCHED)
    table.norm("tracker/feature_norm", f"{torch}.ffeat_norm")
    table.weights("tracker/feature_update", f"{torch}.ffeat_updater.0")
    table.weights("tracker/visibility", f"{torch}.vis_predictor.0")
    table.weights("tracker/confidence", f"{torch}.conf_predictor.0")
    ours, torch = "tracker/transformer", f"{torch}.updateformer"
    table.norm(f"{ours}/input_norm", f"{torch}.input_norm")
    table.weights(f"{ours}/input", f"{torch}.input_transform")
    table.add(f"{ours}/virtual_tracks", f"{torch}.virual_tracks", TRACKS)
    table.norm(f"{ours}/output_norm", f"{torch}.output_norm")
    table.weights(f"{ours}/output", f"{torch}.flow_head")
    for block, theirs, attention in (
        ("time", "time_blocks", "attn"),
        ("virtual", "space_virtual_blocks", "attn"),
        ("virtual_from_points", "space_virtual2point_blocks", "cross_attn"),
        ("points_from_virtual", "space_point2virtual_blocks", "cross_attn"),
    ):
        ours, theirs = f"tracker/transformer/layers/{block}", f"{torch}.{theirs}.#"
        table.norm(f"{ours}/norm1", f"{theirs}.norm1", config.track_depth)
        table.norm(f"{ours}/norm2", f"{theirs}.norm2", config.track_depth)
        if attention == "cross_attn":
            table.norm(f"{ours}/context_norm", f"{theirs}.norm_context", config.track_depth)
        table.add(f"{ours}/qkv/kernel", f"{theirs}.{attention}.in_proj_weight", LINEAR, config.track_depth)
        table.add(f"{ours}/qkv/bias", f"{theirs}.{attention}.in_proj_bias", SAME, config.track_depth)
        table.weights(f"{ours}/out", f"{theirs}.{attention}.out_proj", LINEAR, config.track_depth)
        table.mlp(f"{ours}/mlp", f"{theirs}.mlp", config.track_depth)
