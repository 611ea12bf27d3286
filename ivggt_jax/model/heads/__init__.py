"""Camera, dense and track heads, and the table `HEADS`. A new head is a module, an entry there, and its `Predictions` fields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.heads.camera import CameraHead
from ivggt_jax.model.heads.dpt import DenseHead, FeatureHead
from ivggt_jax.model.heads.track import Tracker


@dataclass(frozen=True)
class Head:
    """A head: its modules and the predictions that it makes."""

    parts: Mapping[str, Callable[..., nnx.Module]]
    """Modules that belong to this head alone: name among the parameters → constructor taking (config, rngs=…)."""
    fields: tuple[str, ...]
    """Fields of `Predictions` that it fills; for a dense head its values, then their confidence if it has one."""
    activate: Callable[[jax.Array], jax.Array] | None = None
    """For dense heads only: raw output [B,S,H,W,channels] → values."""
    by_default: bool = True
    """Whether the head runs unless the caller chooses; a head that needs query points does not."""


def _depth(config: ModelConfig, *, rngs: nnx.Rngs) -> DenseHead:
    return DenseHead(config, 1, rngs=rngs)


def _points(config: ModelConfig, *, rngs: nnx.Rngs) -> DenseHead:
    return DenseHead(config, 3, rngs=rngs)


def _motion(config: ModelConfig, *, rngs: nnx.Rngs) -> DenseHead:
    return DenseHead(config, 1, confidence=False, rngs=rngs)


HEADS: dict[str, Head] = {
    "camera": Head({"camera": CameraHead}, ("pose_encoding",)),
    "depth": Head({"depth": _depth}, ("depth", "depth_confidence"), lambda raw: jnp.exp(raw[..., 0])),
    "points": Head(
        {"points": _points}, ("points", "points_confidence"), lambda raw: jnp.sign(raw) * jnp.expm1(jnp.abs(raw))
    ),
    "tracks": Head(
        {"track_features": FeatureHead, "tracker": Tracker},
        ("tracks", "visibility", "track_confidence"),
        by_default=False,
    ),
    "motion": Head({"motion": _motion}, ("motion",), lambda raw: jax.nn.sigmoid(raw[..., 0])),
}
"""Heads by name, in the order of `config.HeadName`."""
DEFAULT_HEADS = tuple(name for name, head in HEADS.items() if head.by_default)
