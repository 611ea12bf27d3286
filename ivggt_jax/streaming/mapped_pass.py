"""A pass with submaps: where one ends, its last frames are seen twice, by the old memory and by a fresh one."""

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
    """`one_pass` for frames [B,S,H,W,3] in [0,1], NaN where masked, with their patch tokens; predictions are of the world.

    `depth` [B,S,H,W] in metres is what a sensor measured.
    """
    levels, due = look(state, images)
    if where is not None:
        due = due & where
    state, seen, again = seen_twice(network, state, patches, due, where, depth)
    return place(state, Views(levels, due, seen, again, depth), where)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Views:
    """What is seen in S frames of B streams: all that the map is made of."""

    levels: Float[Array, "B S level H W"]
    """The images, blurred (`pyramid`)."""
    due: Bool[Array, " B"]
    """The next submap begins with the last of them."""
    seen: Predictions
    """[B,S,…] what the network says of them in the present submap..."""
    again: Predictions
    """[B,S,…] ... and in the next one, of the last of them, where it is due."""
    depth: Float[Array, "B S H W"] | None
    """In metres, what a sensor measured."""


def look(
    state: StreamState, images: Float[Array, "B S H W 3"]
) -> tuple[Float[Array, "B S level H W"], Bool[Array, " B"]]:
    """The next frames as the map looks at them, NaN where masked, and whether the next submap is due with the last [B]."""
    config, position = state.settings.submaps, state.map
    assert config is not None
    assert position is not None
    levels = jax.vmap(jax.vmap(pyramid))(images)
    return levels, jax.vmap(partial(is_due, config))(position, levels[:, -1], state.frame + images.shape[1])


def place(state: StreamState, views: Views, where: Bool[Array, " B"] | None = None) -> tuple[StreamState, Predictions]:
    """What was seen, put into the streams' worlds; the network's memory has nothing to do with it. Predictions [B,S,…]."""
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
    """Predictions [B,S,…] with the focal length that is known, and the state that has counted what they said."""
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
    """The pass for the streams `where` [B] marks, and a second one for those of them that are `due` [B], afresh.

    Returns the state and the predictions of both.
    """
    nothing = jax.eval_shape(lambda: one_pass(network, state, patches, None, depth)[1])
    seen = again = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), nothing)

    # A loop of one or two turns: the network is compiled once, and XLA keeps the buffers of a loop in place, where it would
    # copy the cache for a conditional.
    def turn(
        number: jax.Array, carry: tuple[StreamState, Predictions, Predictions]
    ) -> tuple[StreamState, Predictions, Predictions]:
        state, seen, _ = carry
        second = number > 0
        first = ~second if where is None else ~second & where
        points = None if seen.tracks is None else seen.tracks[:, -1]
        state = fresh(state, due & second, points)
        state, again = one_pass(network, state, patches, due | first, depth)
        seen = jax.tree.map(lambda old, new: jnp.where(second, old, new), seen, again)
        return state, seen, again

    return lax.fori_loop(0, 1 + jnp.any(due), turn, (state, seen, again))
