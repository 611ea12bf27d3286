"""Detects what moves in a stream's newest frame immediately, by a head of the network or by comparison with a few earlier frames.

Only earlier frames are used. On the walks it was tuned on they found nearly as much as earlier and later ones together
(docs/sensors.md). Waiting for later frames would delay the mask, which the poses of the next frames need.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ivggt_jax.mapping.moving import View, motion_from_views

VIEWS, EVERY = 5, 4
"""Number of earlier frames that are compared, and their spacing in frames."""
LIKELY = 0.5
"""Output of the motion head above which a pixel moves."""
CONTRADICTED = 0.25
"""Share of contradicting earlier frames above which a pixel moves. With the demo model's depth, a threshold of one half finds
half as much."""
REACH = 0.02
"""How far something that moves can get from one frame to the next, as a share of the image's width."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MovingWindow:
    """The memory that one stream needs to detect what moves. Its size never changes."""

    views: View | None
    """[VIEWS,…] the last frames to compare with, depth 0 where there is none; None if the network has a motion head."""
    frame: Int[Array, ""]
    """Frames seen."""
    part: Int[Array, ""]
    """Part of the map that the views belong to; how parts lie to each other is unknown."""
    moving: Bool[Array, "H W"]
    """What moves in the newest frame."""

    @classmethod
    def empty(cls, height: int, width: int, by_head: bool) -> "MovingWindow":
        """The window before the first frame. `by_head`: the network has a motion head."""
        cameras = jnp.tile(jnp.eye(3, 4), (VIEWS, 1, 1)), jnp.tile(jnp.eye(3), (VIEWS, 1, 1))
        views = View(jnp.zeros((VIEWS, height, width, 3)), jnp.zeros((VIEWS, height, width)), *cameras)
        nothing = jnp.zeros((), jnp.int32)
        return cls(None if by_head else views, nothing, jnp.array(nothing), jnp.zeros((height, width), bool))

    def after(
        self,
        frame: View,
        part: Int[Array, ""],
        said: Float[Array, "H W"] | None = None,
        grown: Float[Array, ""] | float = 1.0,
    ) -> tuple["MovingWindow", Bool[Array, "H W"]]:
        """The window after the next frame, of part `part` of the map, and its moving pixels.

        `said`: the motion head's output; `grown`: by how much the map's unit changed with this frame (`MapRecord`).
        """
        if self.views is None:
            assert said is not None
            moving, views = said > LIKELY, None
        else:
            known = grown * jnp.where(part == self.part, self.views.depth, 0)
            cameras = self.views.cam_from_world.at[..., 3].multiply(grown)
            views = replace(self.views, depth=known, cam_from_world=cameras)
            moving = motion_from_views(frame, views) > CONTRADICTED
            chosen = (jnp.arange(VIEWS) == self.frame // EVERY % VIEWS) & (self.frame % EVERY == 0)
            views = jax.tree.map(
                lambda new, old: jnp.where(chosen.reshape(-1, *(1,) * new.ndim), new, old), frame, views
            )
        return MovingWindow(views, self.frame + 1, part, moving), moving

    def still(self, frames: int = 1) -> Bool[Array, "H W"]:
        """Bool [H,W]: pixels where nothing is expected to move in the next `frames` frames."""
        reach = max(1, round(REACH * frames * self.moving.shape[1]))
        side = 2 * reach + 1
        return ~lax.reduce_window(self.moving, False, lax.bitwise_or, (side, side), (1, 1), "SAME")
