"""Masks of what moves in a stream's frames, from the depth and cameras just predicted. Compiles."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from ivggt_jax import geometry
from ivggt_jax.mapping.moving import View
from ivggt_jax.mapping.moving_window import MovingWindow
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.streaming.inputs import FrameArray, unit
from ivggt_jax.streaming.state import StreamState


def empty_window(state: StreamState) -> MovingWindow:
    """The window for a stream with this state, before its first frame."""
    settings = state.settings
    return MovingWindow.empty(settings.height, settings.width, "motion" in settings.heads)


@jax.jit
def judged(window: MovingWindow, images: FrameArray, found: Predictions) -> tuple[MovingWindow, Bool[Array, "T 1 H W"]]:
    """The window after frames [T,1,H,W,3] with their predictions [T,1,…], and a mask of the pixels that move."""
    assert found.depth is not None
    assert found.pose_encoding is not None
    depth = found.depth[:, 0]
    frames = View(unit(images)[:, 0], depth, *geometry.cameras_from_pose(found.pose_encoding[:, 0], *depth.shape[1:]))
    part, grown = jnp.zeros(len(depth), jnp.int32), jnp.ones(len(depth))
    if found.map is not None:
        part = found.map.part[:, 0]
        grown = grown if found.map.grown is None else found.map.grown[:, 0]
    said = None if found.motion is None else found.motion[:, 0]
    window, moving = lax.scan(lambda window, inputs: window.after(*inputs), window, (frames, part, said, grown))
    return window, moving[:, None]
