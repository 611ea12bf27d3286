"""Which tokens may not be evicted beside the first frame: all of it follows from the frame's number, nothing is stored."""

import jax
import jax.numpy as jnp

from ivggt_jax.memory.policies import Origin

SHARE = 2
"""Of what the anchors leave of a layer's budget, protected special tokens take at most one in so many."""


def protected(origin: Origin, frame: jax.Array, budget: jax.Array, anchors: int, special: bool) -> jax.Array:
    """Bool [batch,head,slot]: tokens of anchor frames, and with `special` camera and register tokens of recent frames.

    `frame` and `budget` [batch] are those of the frame and layer at hand; `anchors` counts the first frame, which is
    an anchor in any case. Camera and register tokens are protected from the newest frame back to as many as take half
    of what the anchors leave of the budget; there are never more protected tokens than the budget holds.
    """
    kept = jnp.zeros(origin.number.shape, bool)
    if anchors > 1:
        stride = anchor_stride(frame, anchors)[:, None, None]
        kept |= origin.frame % stride == 0
    if special:
        room = jnp.maximum(budget - anchors * origin.tokens, 0) // SHARE
        window = room // origin.special_tokens
        kept |= origin.special & (origin.frame > (frame - window)[:, None, None])
    return kept.transpose(0, 2, 1)


def anchor_stride(frame: jax.Array, anchors: int) -> jax.Array:
    """Anchors are the frames 0, s, 2s, … with this s, int32 [batch]: the least power of 2 for at most `anchors` of them.

    When the stream outgrows them every second one is let go and s doubles: they are spread evenly over the stream so
    far, and a frame that is an anchor now was one from its beginning.
    """
    powers = jnp.arange(31)
    return 1 << jnp.sum((frame[:, None] >> powers) >= anchors, axis=-1)
