"""A stream whose network and whose map are computed apart, perhaps in several processes. Compiles and donates."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.streaming.compiled import compiled
from ivggt_jax.streaming.inputs import FrameArray, sensor_depth, still, unit
from ivggt_jax.streaming.mapped_pass import Views, look, place, seen_twice
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


@compiled(donate="state")
def see_frame(
    model: Model, state: StreamState, frame: FrameArray, depth: FrameArray | None, never: FrameArray
) -> tuple[StreamState, Predictions]:
    """What the network says of one frame [B,H,W,3] of each stream, to the bit as where a map is made; predictions [B,1,…].

    The streams have no map. `depth` [B,H,W] is that of `step`, for a model that is told it. `never` [B] is False: were that no
    argument, XLA would write out the loop in `seen_twice`, and fuse and round otherwise. The given state is used up.
    """
    images = unit(frame)
    measured = sensor_depth(model, state.settings, depth, images)
    patches = model.network.aggregator.encoder(images)[:, None]
    measured = None if measured is None else measured[:, None]
    state, seen, _ = seen_twice(model.network, state, patches, jnp.asarray(never), None, measured)
    return state, seen


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
