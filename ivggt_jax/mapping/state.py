"""What a stream with submaps remembers besides the network's memory, and the map's record of each frame."""

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

    A stream's world is the frame of its first camera, in the unit of its first submap, or in metres as soon as a depth sensor
    gives the scale.
    """

    world_from_model: Similarity
    """[B] from the frame and unit of the network's predictions, which are the current submap's. Every refined pose updates it,
    and the network's next poses continue from there."""
    world_from_submap: Similarity
    """[B] the same as of the anchor: where the submap was placed."""
    focal: Focal
    """[B] focal length estimated from the images."""
    frame: jax.Array
    """[B] int32: frames seen in all."""
    submap: jax.Array
    """[B] int32: number of the present submap, from 0."""
    part: jax.Array
    """[B] int32: number of the part of the map, from 0. How two parts lie to each other is unknown."""
    link_share: jax.Array
    """[B] float32: share of pixels usable for the link to the previous submap; 0 for the first submap and after a cut."""
    link_spread: jax.Array
    """[B] float32: spread of the log ratio of depths in that link."""
    sharpness: jax.Array
    """[B] float32: running mean of the sharpness of frames, slower for those that show nothing."""
    detail: jax.Array
    """[B] float32: running mean of the correlation between details of frames and keyframes."""
    previous: jax.Array
    """[B,H,W] float32: the last image's details (`shots`), with which the next image's are compared; 0 if it was blurred."""
    jumped: jax.Array
    """[B] bool: no frame since what may be a cut has matched the keyframes."""
    lost: jax.Array
    """[B] int32: frames that did not match the keyframes, since the last one that clearly did."""
    keyframes: Keyframe
    """[B,R,…]: the last keyframes, in the world's frame and unit."""
    valid: jax.Array
    """[B,R] bool: slots that hold a keyframe; keyframe k is in slot k mod R."""
    seam: Seam
    """[B] remaining step in depth at the newest anchor."""
    metric: Metric
    """[B] what a depth sensor has shown of the unit."""
    sensed: Sensed
    """[B] the sensor's last measurement."""
    alive: jax.Array | None
    """[B,N] bool: query points whose track was visible at every anchor so far; None without tracks."""

    @classmethod
    def empty(cls, config: SubmapConfig, batch: int, height: int, width: int, points: int | None) -> "MapState":
        """The initial state of `batch` maps for frames height×width with `points` query points; None: no tracks."""

        def zeros() -> jax.Array:  # a new buffer each time, because the state is donated
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
            previous=jnp.zeros((batch, height, width), jnp.float32),
            jumped=jnp.zeros(batch, bool),
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
    """The map's record of frames, besides their predictions. Leading axes "…" are those of `Predictions`."""

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
    """[…] bool: the pose was refined."""
    agreement: jax.Array
    """[…] float32: correlation of the image's details with the keyframes', projected by depth and pose; 0 if none are visible."""
    token: jax.Array = field(repr=False)
    """[…,2·width] float32: camera token in the newest submap; it serves as the place's descriptor."""
    measured: jax.Array | None = None
    """[…] bool: the frame's measured depth was used; None in a stream without a sensor."""
    grown: jax.Array | None = None
    """[…] float32: factor by which the first reading rescaled everything before this frame; otherwise 1; None without a sensor."""
