"""What moves in a stream's newest frame, told as it comes: by a head of the network, or by a few frames before it.

Earlier frames alone are asked. On the walks that it was tuned on they told nearly as much as earlier and later ones together
(docs/sensors.md), and a frame that waited for later ones would be late, and so its mask for the poses of the frames in between.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ivggt_jax.mapping.moving import View, motion_from_views

VIEWS, EVERY = 5, 4
"""Earlier frames that are asked, and how far they lie apart."""
LIKELY = 0.5
"""From which the word of a head is that a pixel moves,"""
CONTRADICTED = 0.25
"""and from which share of the earlier frames that speak against it. By the demo model's depth half of them find half as much."""
REACH = 0.02
"""Of the image's width: what moves is expected so far around where it was a frame ago."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MovingWindow:
    """What is remembered of one stream for telling what moves. Its size never changes."""

    views: View | None
    """[VIEWS,…] the last frames that are asked, depth 0 where there is none; None where a head tells."""
    frame: Int[Array, ""]
    """Frames seen."""
    part: Int[Array, ""]
    """Of the map, that the views belong to: between two parts nothing is known."""
    moving: Bool[Array, "H W"]
    """What moves in the newest frame."""

    @classmethod
    def empty(cls, height: int, width: int, by_head: bool) -> "MovingWindow":
        """Before the first frame. `by_head`: the network has a head that tells."""
        cameras = jnp.tile(jnp.eye(3, 4), (VIEWS, 1, 1)), jnp.tile(jnp.eye(3), (VIEWS, 1, 1))
        views = View(jnp.zeros((VIEWS, height, width, 3)), jnp.zeros((VIEWS, height, width)), *cameras)
        nothing = jnp.zeros((), jnp.int32)
        return cls(None if by_head else views, nothing, jnp.array(nothing), jnp.zeros((height, width), bool))

    def after(
        self, frame: View, part: Int[Array, ""], said: Float[Array, "H W"] | None
    ) -> tuple["MovingWindow", Bool[Array, "H W"]]:
        """The window after the next frame, of a part of the map, and which of its pixels move; `said` by the head."""
        if self.views is None:
            assert said is not None
            moving, views = said > LIKELY, None
        else:
            known = jnp.where(part == self.part, self.views.depth, 0)
            views = replace(self.views, depth=known)
            moving = motion_from_views(frame, views) > CONTRADICTED
            chosen = (jnp.arange(VIEWS) == self.frame // EVERY % VIEWS) & (self.frame % EVERY == 0)
            views = jax.tree.map(
                lambda new, old: jnp.where(chosen.reshape(-1, *(1,) * new.ndim), new, old), frame, views
            )
        return MovingWindow(views, self.frame + 1, part, moving), moving

    @property
    def still(self) -> Bool[Array, "H W"]:
        """Where nothing is expected to move in the next frame."""
        reach = max(1, round(REACH * self.moving.shape[1]))
        side = 2 * reach + 1
        return ~lax.reduce_window(self.moving, False, lax.bitwise_or, (side, side), (1, 1), "SAME")
