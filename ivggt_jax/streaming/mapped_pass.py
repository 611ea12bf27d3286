"""A pass with submaps: the last frames of a submap go through the network twice, with the old memory and a fresh one."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from ivggt_jax.mapping.pyramid import pyramid
from ivggt_jax.mapping.submaps import follow, is_due
from ivggt_jax.model.vggt import VGGT, Predictions
from ivggt_jax.streaming.one_pass import choose, fresh, one_pass
from ivggt_jax.streaming.state import StreamState


def mapped_pass(
    network: VGGT,
    state: StreamState,
    patches: Float[Array, "B S N width"],
    images: Float[Array, "B S H W 3"],
    where: Bool[Array, " B"] | None = None,
    depth: Float[Array, "B S H W"] | None = None,
) -> tuple[StreamState, Predictions]:
    """`one_pass` for frames [B,S,H,W,3] in [0,1], NaN where masked, with their patch tokens; predictions in the world.

    `depth` [B,S,H,W] is what a sensor measured, in metres.
    """
    levels, due = look(state, images)
    if where is not None:
        due = due & where
    state, seen, again = seen_twice(network, state, patches, due, where, depth)
    return place(state, Views(levels, due, seen, again, depth), where)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Views:
    """S frames of B streams, as the map needs them."""

    levels: Float[Array, "B S level H W"]
    """The images at several blurs (`pyramid`)."""
    due: Bool[Array, " B"]
    """Whether the next submap begins with the last frame."""
    seen: Predictions
    """[B,S,…] predictions for the frames, in the present submap."""
    again: Predictions
    """[B,S,…] predictions for the same frames by the next submap's fresh memory; meaningless where not `due`."""
    depth: Float[Array, "B S H W"] | None
    """What a sensor measured, in metres."""


def look(
    state: StreamState, images: Float[Array, "B S H W 3"]
) -> tuple[Float[Array, "B S level H W"], Bool[Array, " B"]]:
    """The next frames at several blurs, NaN where masked, and whether the next submap is due with the last of them [B]."""
    config, position = state.settings.submaps, state.map
    assert config is not None
    assert position is not None
    levels = jax.vmap(jax.vmap(pyramid))(images)
    return levels, jax.vmap(partial(is_due, config))(position, levels[:, -1], state.frame + images.shape[1])


def place(state: StreamState, views: Views, where: Bool[Array, " B"] | None = None) -> tuple[StreamState, Predictions]:
    """Place what was seen in the streams' worlds; this needs no network memory. Returns the state and predictions [B,S,…]."""
    config, position = state.settings.submaps, state.map
    assert config is not None
    assert position is not None
    _, again = with_known_focal(state, views.again, where)
    state, seen = with_known_focal(state, views.seen, where)
    followed, found = jax.vmap(partial(follow, config))(position, seen, again, views.levels, views.due, views.depth)
    position = jax.tree.map(partial(choose, where), followed, position)
    if not state.settings.features:
        found = replace(found, features=None)  # type: ignore[arg-type]
    return replace(state, map=position), found


def with_known_focal(
    state: StreamState, found: Predictions, where: Bool[Array, " B"] | None
) -> tuple[StreamState, Predictions]:
    """Predictions [B,S,…] corrected to the known focal length, and the state with updated statistics."""
    if state.focal is None:
        return state, found
    counted, found = state.focal.corrected(found)
    return replace(state, focal=jax.tree.map(partial(choose, where), counted, state.focal)), found


def seen_twice(
    network: VGGT,
    state: StreamState,
    patches: Float[Array, "B S N width"],
    due: Bool[Array, " B"],
    where: Bool[Array, " B"] | None,
    depth: Float[Array, "B S H W"] | None,
) -> tuple[StreamState, Predictions, Predictions]:
    """One pass for the streams that `where` [B] marks, and a second one with a fresh memory for those that are `due` [B].

    Returns the state and the predictions of both passes.
    """
    nothing = jax.eval_shape(lambda: one_pass(network, state, patches, None, depth)[1])
    seen = again = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), nothing)

    # A loop of one or two iterations instead of a conditional: the network is compiled once, and XLA updates a loop's buffers
    # in place, whereas it would copy the cache for a conditional.
    def turn(
        number: jax.Array, carry: tuple[StreamState, Predictions, Predictions]
    ) -> tuple[StreamState, Predictions, Predictions]:
        state, seen, _ = carry
        second = number > 0
        first = ~second if where is None else ~second & where
        points = None if seen.tracks is None else seen.tracks[:, 0]  # the first frame that the next submap sees
        state = fresh(state, due & second, points)
        state, again = one_pass(network, state, patches, due | first, depth)
        seen = jax.tree.map(lambda old, new: jnp.where(second, old, new), seen, again)
        return state, seen, again

    return lax.fori_loop(0, 1 + jnp.any(due), turn, (state, seen, again))
