"""What a stream with submaps remembers beside the network's memory, and what it says of each frame."""

from dataclasses import dataclass

import jax

from ivggt_jax.mapping.refinement import Keyframes
from ivggt_jax.transforms import Similarity


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MapState:
    """Where B streams are in their worlds. Its size never changes.

    A world is the frame of the first camera of a stream, in the unit of its first submap.
    """

    world_from_model: Similarity
    """[B] from the network's present frame and unit, that of the submap's anchor; moved whenever a pose is refined."""
    world_from_submap: Similarity
    """[B] the same as it was at the anchor: where the submap was placed."""
    frame: jax.Array
    """[B] int32: frames seen in all."""
    submap: jax.Array
    """[B] int32: number of the submap, from 0."""
    part: jax.Array
    """[B] int32: number of the part of the map, from 0; a link that fails begins a new one."""
    sharpness: jax.Array
    """[B] float32: the running mean of the frames' sharpness."""
    lost: jax.Array
    """[B] int32: frames on end that agree with no earlier one."""
    keyframes: Keyframes
    """Earlier frames that new ones are aligned with, in the world's frame and unit."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class MapRecord:
    """What the map says of frames, beside their `Predictions`; leading axes "…" as there."""

    submap: jax.Array
    """[…] int32: the submap that the frame belongs to."""
    part: jax.Array
    """[…] int32: its part of the map; between parts nothing is known."""
    anchor: jax.Array
    """[…] bool: the frame is the last of its submap and the anchor of the next one."""
    world_from_submap: Similarity
    """[…] where the submap was placed."""
    spread: jax.Array
    """[…] float32: at an anchor, the spread of the link's log depth ratio; else 0."""
    refined: jax.Array
    """[…] bool: the pose was refined."""
    agreement: jax.Array
    """[…] float32: share of the pixels looked at that agree with earlier frames."""
    token: jax.Array
    """[…,2·width] float32: the camera token, which tells places apart."""
