"""The whole network, and its predictions. No jit and no files here."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.aggregator import Aggregator
from ivggt_jax.model.brief import shape
from ivggt_jax.model.clip import ClipMode
from ivggt_jax.model.heads import HEADS
from ivggt_jax.model.heads.camera import CameraHead
from ivggt_jax.model.heads.dpt import DenseHead, FeatureHead
from ivggt_jax.model.heads.track import Tracker
from ivggt_jax.model.sensor import SensorUnit

PIXELS_AT_ONCE = 1 << 20
"""Pixels that the dense heads process at a time, at least one frame: their feature maps take the most memory."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Predictions for frames; a field is None if its head was left out.

    Fields are typed as present, so that callers who asked for a head need not check for None.

    Leading axes "…" are [B,S] from a clip, [B] from a step, [T,B] from a scan, none from a stream. H×W is the input's size.
    """

    pose_encoding: jax.Array = None  # type: ignore[assignment]
    """[…,9] cam_from_world, OpenCV axes: translation, quaternion xyzw (not normalised), field of view (vertical, horizontal)."""
    depth: jax.Array = None  # type: ignore[assignment]
    """[…,H,W] z in the camera, up to scale; like all lengths in a sensor's unit if the first frame came with depth."""
    depth_confidence: jax.Array = None  # type: ignore[assignment]
    """[…,H,W] ≥ 1"""
    points: jax.Array = None  # type: ignore[assignment]
    """[…,H,W,3] in the first camera's frame."""
    points_confidence: jax.Array = None  # type: ignore[assignment]
    """[…,H,W] ≥ 1"""
    tracks: jax.Array = None  # type: ignore[assignment]
    """[…,N,2] (x, y) in pixels."""
    visibility: jax.Array = None  # type: ignore[assignment]
    """[…,N] in [0,1]"""
    track_confidence: jax.Array = None  # type: ignore[assignment]
    """[…,N] in [0,1]"""
    motion: jax.Array = None  # type: ignore[assignment]
    """[…,H,W] in [0,1]: probability that the pixel shows something that moves in the world."""
    features: jax.Array = None  # type: ignore[assignment]
    """[…,P,2·width] tokens of the last layer: camera, registers, then patches row by row."""
    map: Any = None
    """A `mapping.state.MapRecord`, with submaps; predictions are then in the stream's world, not in the submap's."""

    def __repr__(self) -> str:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        named = (f"{name} {shape(x)}" for name, x in found.items() if x is not None)
        return f"Predictions({', '.join(named)})"


class VGGT(nnx.Module):
    """Aggregator and heads (VGGT, arXiv 2503.11651; causal: StreamVGGT, 2507.11539; bounded memory: InfiniteVGGT, 2601.02281)."""

    # Only the modules of the heads in `config.predicts` exist.
    camera: CameraHead
    depth: DenseHead
    points: DenseHead
    track_features: FeatureHead
    tracker: Tracker
    motion: DenseHead

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.aggregator = Aggregator(config, rngs=rngs)
        for name in config.predicts:
            for part, make in HEADS[name].parts.items():
                setattr(self, part, make(config, rngs=rngs))

    def clip(
        self,
        images: jax.Array,
        *,
        mode: ClipMode,
        heads: Collection[str],
        query_points: jax.Array | None = None,
        features: bool = False,
        depth: jax.Array | None = None,
    ) -> Predictions:
        """A whole clip [B,S,H,W,3] in [0,1] at once; queries [B,N,2] are pixels of the first frame, depth [B,S,H,W] is
        measured."""
        height, width = images.shape[2:4]
        outputs, unit = self.see(images, mode, depth)
        found = self.read(outputs, height, width, mode, heads, query_points)
        return answered(replace(found, features=outputs[-1]) if features else found, unit, depth)

    def see(
        self, images: jax.Array, mode: ClipMode, depth: jax.Array | None = None, remat: bool = False
    ) -> tuple[jax.Array, SensorUnit | None]:
        """Layer outputs [layer,B,S,P,2·width] of a clip, and the unit in which its measured depth [B,S,H,W] went in."""
        if depth is None:
            return self.aggregator.clip(images, mode, remat), None
        unit = SensorUnit.empty(depth.shape[0]).after(depth)
        return self.aggregator.clip(images, mode, remat, unit.relative(depth)), unit

    def read(
        self,
        outputs: jax.Array,
        height: int,
        width: int,
        mode: ClipMode,
        heads: Collection[str],
        query_points: jax.Array | None = None,
    ) -> Predictions:
        """Predictions of the heads from a clip's layer outputs [layer,B,S,P,2·width]."""
        found: dict[str, jax.Array] = self.dense(outputs, height, width, heads)
        if "camera" in heads:
            found["pose_encoding"] = self.camera.clip(outputs[-1, :, :, 0], mode)[-1]
        if query_points is not None and "tracks" in heads:
            maps = self.track_maps(outputs, height, width)
            found["tracks"], found["visibility"], found["track_confidence"] = self.tracker(maps, query_points)
        return Predictions(**found)

    def dense(self, outputs: jax.Array, height: int, width: int, heads: Collection[str]) -> dict[str, jax.Array]:
        """Predictions of the dense heads among `heads` from layer outputs [layer,B,S,P,2·width], by field name."""
        found: dict[str, jax.Array] = {}
        for name, head in HEADS.items():
            if head.activate is not None and name in heads:
                raw, *confidence = self._map_frames(getattr(self, name), outputs, height, width)
                found |= dict(zip(head.fields, (head.activate(raw), *confidence), strict=True))
        return found

    def track_maps(self, outputs: jax.Array, height: int, width: int) -> jax.Array:
        """Feature maps for the tracker, [B,S,H/2,W/2,track_features]."""
        return self._map_frames(self.track_features, outputs, height, width)

    def _map_frames(
        self,
        head: Callable[[jax.Array, int, int], Any],
        outputs: Float[Array, "layer B S token width"],
        height: int,
        width: int,
    ) -> Any:
        """Apply a dense head to the patch tokens of all frames, a few frames at a time."""
        layers, batch, frames = outputs.shape[:3]
        patches = outputs[:, :, :, self.aggregator.config.special_tokens :]
        patches = patches.reshape(layers, batch * frames, *patches.shape[3:])
        at_once = max(1, PIXELS_AT_ONCE // (height * width))
        if batch * frames <= at_once:
            found = head(patches, height, width)
        else:
            found = lax.map(
                lambda frame: jax.tree.map(lambda x: x[0], head(frame[:, None], height, width)),
                patches.swapaxes(0, 1),
                batch_size=at_once,
            )
        return jax.tree.map(lambda x: x.reshape(batch, frames, *x.shape[1:]), found)


def answered(found: Predictions, unit: SensorUnit | None, depth: jax.Array | None) -> Predictions:
    """Predictions [B,S,…] of a clip, in the unit of the measured depth [B,S,H,W] if it can be determined."""
    if unit is None or depth is None:
        return found
    if found.depth is not None:
        unit = unit.answered(depth, found.depth, jnp.zeros(depth.shape[0], jnp.int32))
    return in_unit(found, unit)


def in_unit(found: Predictions, unit: SensorUnit | None) -> Predictions:
    """Predictions [B,…] with all lengths converted to the unit of their streams."""
    if unit is None:
        return found
    lengths = {name: getattr(found, name) for name in ("depth", "points")}
    scaled = {name: _times(unit.given, x) for name, x in lengths.items() if x is not None}
    if found.pose_encoding is not None:
        moved = _times(unit.given, found.pose_encoding[..., :3])
        scaled["pose_encoding"] = jnp.concatenate([moved, found.pose_encoding[..., 3:]], axis=-1)
    return replace(found, **scaled)


def _times(factor: jax.Array, x: jax.Array) -> jax.Array:
    """x [B,…] times factors [B]."""
    return x * factor.reshape(-1, *(1,) * (x.ndim - 1))
