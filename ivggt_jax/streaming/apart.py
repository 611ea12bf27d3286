"""A stream whose network is computed elsewhere: what its map does with each frame, and nothing else. Compiles and donates."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ivggt_jax.model.vggt import Predictions
from ivggt_jax.streaming.compiled import compiled
from ivggt_jax.streaming.inputs import FrameArray, still, unit
from ivggt_jax.streaming.mapped_pass import Views, look, place
from ivggt_jax.streaming.state import StreamState


def without_network(begin: Callable[[], StreamState]) -> StreamState:
    """A stream as it begins, without the network's memory, for which no room is taken.

    It counts frames and tokens all the same, as it is told.
    """

    def cut() -> StreamState:
        state = begin()
        nothing = jax.tree.map(lambda x: x[:, :, :0], replace(state.cache, length=jnp.zeros((0, 0, 0), jnp.int32)))
        return replace(state, cache=replace(nothing, length=state.cache.length), camera=None, sensor=None)

    return jax.jit(cut)()


@jax.jit
def look_at(
    state: StreamState, frame: FrameArray, masks: FrameArray
) -> tuple[Float[Array, "B S level H W"], Bool[Array, " B"]]:
    """`look` at the next frame [B,H,W,3] of each stream, with masks as in `step`."""
    return look(state, still(unit(frame), masks)[:, None])


@compiled(donate="state")
def place_frame(state: StreamState, views: Views) -> tuple[StreamState, Predictions]:
    """One frame of each stream put into its world; predictions [B,…]. The given state is used up."""
    state, found = place(state, views)
    frame = jnp.where(views.due, 1, state.frame + 1)
    return replace(state, frame=frame), jax.tree.map(lambda x: x[:, 0], found)
