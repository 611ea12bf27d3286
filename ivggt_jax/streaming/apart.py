"""A stream whose network and map are computed separately, perhaps in several processes. Compiles and donates."""

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
    """A stream before its first frame, without the network's memory, which is never allocated.

    It still counts frames and tokens.
    """

    def cut() -> StreamState:
        state = begin()
        nothing = jax.tree.map(lambda x: x[:, :, :0], replace(state.cache, length=jnp.zeros((0, 0, 0), jnp.int32)))
        return replace(state, cache=replace(nothing, length=state.cache.length), camera=None, sensor=None)

    return jax.jit(cut)()


@compiled
def see_frame(
    model: Model, state: StreamState, frame: FrameArray, depth: FrameArray | None, never: FrameArray
) -> tuple[StreamState, Predictions]:
    """The network's predictions [B,1,…] for one frame [B,H,W,3] of each stream, bit-identical to those of a stream with a map.

    The streams given here have no map. `depth` [B,H,W] is as in `step`, for a model with depth input. `never` [B] is False. It is
    an argument because XLA would otherwise unroll the loop in `seen_twice`, fuse differently and round differently. The given
    state is used up.
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


@compiled
def place_frame(state: StreamState, views: Views) -> tuple[StreamState, Predictions]:
    """Place one frame of each stream in its world; predictions [B,…]. The given state is used up."""
    state, found = place(state, views)
    frame = jnp.where(views.due, 1, state.frame + 1)
    return replace(state, frame=frame), jax.tree.map(lambda x: x[:, 0], found)
