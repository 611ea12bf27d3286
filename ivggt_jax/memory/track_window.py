"""The streaming tracker's memory: feature maps and coordinates of the query frame and the latest frames."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ivggt_jax.memory.ring import ring_slot


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrackWindow:
    """A ring of W frames per stream: the query frame in slot 0, frame t ≥ 1 in slot 1 + (t − 1) mod (W − 1).

    In all methods `frame` [B] int32 is the index of the frame being tracked, from 0; streams need not be in step. For each frame
    call `push`, run the tracker with `start` and `live`, then call `store`.
    """

    maps: jax.Array
    """[B,W,h,w,features] float32 feature maps."""
    coordinates: jax.Array
    """[B,W,N,2] float32, in pixels of the model's input: latest coordinates of the points in each frame."""
    query_points: jax.Array
    """[B,N,2] float32, in pixels of the query frame."""
    first_points: jax.Array
    """[B,N,2] float32: those of the stream's first frame. In later submaps, points go on from where they were tracked to."""

    @classmethod
    def empty(
        cls, query_points: Float[Array, "batch N 2"], frames: int, height: int, width: int, features: int
    ) -> "TrackWindow":
        """An empty window for `frames` feature maps height×width and queries [B,N,2]."""
        batch, points, _ = query_points.shape
        return cls(
            maps=jnp.zeros((batch, frames, height, width, features), jnp.float32),
            coordinates=jnp.zeros((batch, frames, points, 2), jnp.float32),
            query_points=query_points,
            first_points=jnp.copy(query_points),
        )

    def slot(self, frame: Int[Array, " batch"]) -> Int[Array, " batch"]:
        """[B] int32: the frame's slot."""
        return ring_slot(frame, self.maps.shape[1])

    def live(self, frame: Int[Array, " batch"]) -> Bool[Array, "batch W"]:
        """Bool [B,W]: slots that hold a frame of this stream; the content of the others must not be used."""
        return jnp.arange(self.maps.shape[1]) <= frame[:, None]

    def push(self, frame: Int[Array, " batch"], feature_map: Float[Array, "batch h w features"]) -> "TrackWindow":
        """The window with the frame's map [B,h,w,features] in its slot, and its points at the previous frame's coordinates."""
        entry, slot = jnp.arange(frame.shape[0]), self.slot(frame)
        previous = self.coordinates[entry, self.slot(frame - 1)]
        return replace(
            self,
            maps=self.maps.at[entry, slot].set(feature_map),
            coordinates=self.coordinates.at[entry, slot].set(previous),
        )

    def start(self, frame: Int[Array, " batch"]) -> Float[Array, "batch W N 2"]:
        """Initial coordinates for the tracker, [B,W,N,2], after the frame was pushed.

        Until the first frame leaves the window these are the queries, as in a clip; afterwards the latest coordinates.
        """
        whole = (frame < self.maps.shape[1])[:, None, None, None]
        return jnp.where(whole, self.query_points[:, None], self.coordinates)

    def store(self, tracks: Float[Array, "batch W N 2"]) -> "TrackWindow":
        """The window with the tracker's coordinates [B,W,N,2] of all its frames."""
        return replace(self, coordinates=tracks)
