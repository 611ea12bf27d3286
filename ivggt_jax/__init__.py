"""Endless video to camera poses, depth, points and tracks in constant memory: InfiniteVGGT in JAX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ivggt_jax.config import CacheConfig, ModelConfig
    from ivggt_jax.geometry import cameras_from_pose, pose_from_cameras, unproject
    from ivggt_jax.mapping.config import SubmapConfig
    from ivggt_jax.model.parameters import Model
    from ivggt_jax.model.vggt import Predictions
    from ivggt_jax.sources.pictures import fit
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
    "fit",
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

_PLACES = {
    "config": ("CacheConfig", "ModelConfig"),
    "geometry": ("cameras_from_pose", "pose_from_cameras", "unproject"),
    "mapping.config": ("SubmapConfig",),
    "model.parameters": ("Model",),
    "model.vggt": ("Predictions",),
    "sources.pictures": ("fit",),
    "streaming.state": ("StreamState",),
    "streaming.steps": ("infer_clip", "init_stream", "reset", "scan", "step", "stream"),
    "weights.checkpoint": ("save",),
    "weights.loading": ("load",),
}
_PLACE = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Imported on first use: importing JAX takes half a second, and --help does not need it.
    if name not in _PLACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_PLACE[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
