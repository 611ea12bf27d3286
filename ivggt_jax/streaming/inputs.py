"""What comes with frames on its way into a stream: checked, and in the form that it is computed with."""

from collections.abc import Iterator, Sequence
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped

from ivggt_jax.model.parameters import Model
from ivggt_jax.streaming.state import StreamSettings

FrameArray = jax.Array | np.ndarray

WHITEST = 2.0
"""No picture in [0,1] has this, though interpolation may make a little more than 1 of white."""


def unit(images: Shaped[FrameArray, "*axes"]) -> Float32[Array, "*axes"]:
    """Float32 in [0,1] from that or from uint8. Raises ValueError for other whole numbers."""
    if images.dtype == jnp.uint8:
        return jnp.asarray(images).astype(jnp.float32) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be uint8, or floats in [0,1], not {images.dtype}")
    return jnp.asarray(images, jnp.float32)


def in_range(images: Shaped[FrameArray, "*axes"]) -> Shaped[FrameArray, "*axes"]:
    """The images. Raises ValueError for floats on the host that are plainly of 0 to 255: what is compiled cannot see numbers."""
    if isinstance(images, np.ndarray) and images.dtype.kind == "f" and images.size and (most := images.max()) > WHITEST:
        raise ValueError(f"images of floats must be in [0,1], but one is {most:g}: divide by 255, or give uint8")
    return images


def still(images: Float[Array, "*axes 3"], masks: FrameArray | None) -> Float[Array, "*axes 3"]:
    """The images [...,H,W,3] with NaN, which the map takes for unknown, where masks [...,H,W] say that nothing is still."""
    if masks is None:
        return images
    if masks.shape != images.shape[:-1] or masks.dtype != bool:
        raise ValueError(f"masks must be bool {list(images.shape[:-1])}, not {masks.dtype} {list(masks.shape)}")
    return jnp.where(masks[..., None], images, jnp.nan)


def sensor_depth(
    model: Model, settings: StreamSettings | None, depth: FrameArray | None, images: Shaped[FrameArray, "*axes 3"]
) -> Float32[Array, "*axes"] | None:
    """Depth [...,H,W] float32 for images [...,H,W,3]; 0, NaN, infinity and negative numbers are where nothing was measured.

    `settings` are those of the stream, None for a clip. Raises ValueError for another shape, for whole numbers, whose unit
    nobody knows, and where nothing could be made of it.
    """
    if depth is None:
        return None
    if not model.config.depth_input and (settings is None or settings.submaps is None):
        raise ValueError(
            "depth is for a stream with submaps, whose map it makes metric: init_stream(…, submaps=SubmapConfig()), "
            "or for a model that is told it, which this one is not: its configuration has no depth_input"
        )
    if depth.shape != images.shape[:-1] or not jnp.issubdtype(depth.dtype, jnp.floating):
        raise ValueError(f"depth must be floats {list(images.shape[:-1])}, not {depth.dtype} {list(depth.shape)}")
    return jnp.asarray(depth, jnp.float32)


def depth_of(depths: Iterator[FrameArray | None] | None, frames: Sequence[FrameArray], count: int) -> np.ndarray | None:
    """The next depths, one for each of the frames [H,W,3], as [count,1,H,W]; None among them says nothing, as does what fills up.

    Raises ValueError when there are too few.
    """
    if depths is None:
        return None
    found = list(islice(depths, len(frames)))
    if len(found) < len(frames):
        raise ValueError("depth ended before the frames: it needs an entry for each, which may be None")
    nothing = np.zeros(frames[0].shape[:2], np.float32)
    maps = [nothing if depth is None else np.asarray(depth) for depth in found]
    for depth in maps:
        if depth.shape != nothing.shape:
            raise ValueError(f"depth must be {list(nothing.shape)} like its frame, not {list(depth.shape)}")
    return np.stack(maps + [nothing] * (count - len(maps)))[:, None]


def queries_of(query_points: FrameArray, batch: int) -> Float32[Array, "{batch} N 2"]:
    """Query points float32 [B,N,2]. Raises ValueError for others."""
    if query_points.ndim != 3 or query_points.shape[0] != batch or query_points.shape[-1] != 2:
        raise ValueError(f"query_points must be [{batch},N,2] pixels, not {list(query_points.shape)}")
    return jnp.array(query_points, jnp.float32)  # A copy: the state is donated.


def focal_of(focal: FrameArray, batch: int, heads: tuple[str, ...]) -> jax.Array:
    """Known focal lengths float32 [B,2]. Raises ValueError for others, and where no camera is predicted."""
    if focal.shape != (batch, 2) or not (np.asarray(focal) > 0).all() or not {"camera", "depth"} <= set(heads):
        raise ValueError(
            f"focal must be positive lengths [{batch},2] of streams with the heads camera and depth, not {focal}"
        )
    return jnp.array(focal, jnp.float32)  # A copy: the state is donated.
