"""What a stream with submaps remembers beside the network's memory, and what it says of each frame."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.mapping.metric import Metric, Sensed
from ivggt_jax.mapping.refinement import Focal, Keyframe, empty_keyframes
from ivggt_jax.mapping.seam import Seam
from ivggt_jax.transforms import Similarity


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class MapState:
    """Where B streams are in their worlds. Its size never changes.

    The world of a stream is the frame of its first camera, in the unit of its first submap; in metres once a depth sensor
    has said what that is.
    """

    world_from_model: Similarity
    """[B] from the frame and unit of the network's predictions, those of the present submap's anchor. It moves whenever
    a pose is refined: the network's next poses follow from there."""
    world_from_submap: Similarity
    """[B] the same as it was at the anchor: where the submap was placed."""
    focal: Focal
    """[B] the focal length that the images make believe."""
    frame: jax.Array
    """[B] int32: frames seen in all."""
    submap: jax.Array
    """[B] int32: number of the present submap, from 0."""
    part: jax.Array
    """[B] int32: number of the part of the map, from 0. Between two parts nothing is known."""
    link_share: jax.Array
    """[B] float32: share of the pixels by which the submap is linked to the one before it; 0 for the first one and after a
    cut..."""
    link_spread: jax.Array
    """[B] float32: ... and the spread of the logarithm of the ratio of depths there."""
    sharpness: jax.Array
    """[B] float32: running mean of the sharpness of frames that show something."""
    detail: jax.Array
    """[B] float32: running mean of how the details of frames correlate with the keyframes."""
    lost: jax.Array
    """[B] int32: frames that do not belong to the keyframes, since the last that surely did."""
    keyframes: Keyframe
    """[B,R,…]: the last keyframes, in the world's frame and unit."""
    valid: jax.Array
    """[B,R] bool: which of them there are; keyframe k is in slot k mod R."""
    seam: Seam
    """[B] what is left of the step in depth at the newest anchor."""
    metric: Metric
    """[B] what a depth sensor has said of the unit..."""
    sensed: Sensed
    """[B] ... and what it measured last."""
    alive: jax.Array | None
    """[B,N] bool: query points whose track was visible at every anchor so far; None without tracks."""

    @classmethod
    def empty(cls, config: SubmapConfig, batch: int, height: int, width: int, points: int | None) -> "MapState":
        """The beginning of `batch` maps for frames height×width, with so many query points; None: no tracks."""

        def zeros() -> jax.Array:  # no buffer twice: the state is donated
            return jnp.zeros(batch, jnp.int32)

        return cls(
            world_from_model=Similarity.identity(batch),
            world_from_submap=Similarity.identity(batch),
            focal=Focal(jnp.ones((batch, 2)), jnp.zeros(batch)),
            frame=zeros(), submap=zeros(), part=zeros(), lost=zeros(),
            link_share=jnp.zeros(batch, jnp.float32),
            link_spread=jnp.zeros(batch, jnp.float32),
            sharpness=jnp.zeros(batch, jnp.float32),
            detail=jnp.zeros(batch, jnp.float32),
            keyframes=empty_keyframes((batch, config.keyframes), height, width),
            valid=jnp.zeros((batch, config.keyframes), bool),
            seam=Seam.none(batch, height, width),
            metric=Metric.empty(batch),
            sensed=Sensed.empty(batch, height, width),
            alive=None if points is None else jnp.ones((batch, points), bool),
        )  # fmt: skip


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, kw_only=True)
class MapRecord:
    """What the map says of frames, beside their predictions. Leading axes "…" are those of `Predictions`."""

    submap: jax.Array
    """[…] int32: the submap that the frame was seen in."""
    part: jax.Array
    """[…] int32: the submap's part of the map."""
    world_from_submap: Similarity
    """[…] where the submap was placed."""
    anchor: jax.Array
    """[…] bool: the next submap begins with this frame."""
    link_share: jax.Array
    """[…] float32, as in `MapState`."""
    link_spread: jax.Array
    """[…] float32, as in `MapState`."""
    refined: jax.Array
    """[…] bool: the pose is a refined one."""
    agreement: jax.Array
    """[…] float32: correlation of the image's details with the keyframes', put where depth and pose say; 0 where none is seen."""
    token: jax.Array = field(repr=False)
    """[…,2·width] float32: the camera token of the newest submap, by which places are told apart."""
    measured: jax.Array | None = None
    """[…] bool: a depth sensor's reading of the frame was used; None in a stream without a sensor."""
