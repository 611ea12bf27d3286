"""Endless video to camera poses, depth, points and tracks in constant memory: InfiniteVGGT in JAX."""

from ivggt_jax.config import CacheConfig, ModelConfig
from ivggt_jax.geometry import cameras_from_pose, pose_from_cameras, unproject
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import infer_clip, init_stream, reset, scan, step, stream
from ivggt_jax.weights.checkpoint import save
from ivggt_jax.weights.loading import load

__all__ = [
    "CacheConfig",
    "Model",
    "ModelConfig",
    "Predictions",
    "StreamState",
    "SubmapConfig",
    "cameras_from_pose",
    "infer_clip",
    "init_stream",
    "load",
    "pose_from_cameras",
    "reset",
    "save",
    "scan",
    "step",
    "stream",
    "unproject",
]
