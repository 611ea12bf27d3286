"""Inputs of a stream: checked and converted to the form in which they are computed with."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Shaped

from ivggt_jax.model.parameters import Model
from ivggt_jax.streaming.state import StreamSettings, StreamState

FrameArray = jax.Array | np.ndarray

WHITEST = 2.0
"""Larger than any value in a picture scaled to [0,1], even where interpolation overshoots white."""


def unit(images: Shaped[FrameArray, "*axes"]) -> Float32[Array, "*axes"]:
    """Images as float32 in [0,1], from floats in [0,1] or uint8. Raises ValueError for other integers."""
    if images.dtype == jnp.uint8:
        return jnp.asarray(images).astype(jnp.float32) / 255
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be uint8, or floats in [0,1], not {images.dtype}")
    return jnp.asarray(images, jnp.float32)


def check_arrays(**given: object) -> None:
    """Raises ValueError for a given argument that is no array, such as a list of frames; None counts as not given."""
    for name, value in given.items():
        if value is not None and not isinstance(value, FrameArray):
            raise ValueError(f"{name} must be an array, not a {type(value).__name__}: np.stack makes one of several")


def in_range(images: Shaped[FrameArray, "*axes"]) -> Shaped[FrameArray, "*axes"]:
    """The images, unchanged. Raises ValueError for NumPy floats that are plainly 0 to 255; compiled code cannot check values."""
    if isinstance(images, np.ndarray) and images.dtype.kind == "f" and images.size and (most := images.max()) > WHITEST:
        raise ValueError(f"images of floats must be in [0,1], but one is {most:g}: divide by 255, or give uint8")
    return images


def still(images: Float[Array, "*axes 3"], masks: FrameArray | None) -> Float[Array, "*axes 3"]:
    """The images [...,H,W,3], with NaN (unknown to the map) where masks [...,H,W] are False: off the static scene."""
    if masks is None:
        return images
    if masks.shape != images.shape[:-1] or masks.dtype != bool:
        raise ValueError(f"masks must be bool {list(images.shape[:-1])}, not {masks.dtype} {list(masks.shape)}")
    return jnp.where(masks[..., None], images, jnp.nan)


def sensor_depth(
    model: Model, settings: StreamSettings | None, depth: FrameArray | None, images: Shaped[FrameArray, "*axes 3"]
) -> Float32[Array, "*axes"] | None:
    """Measured depth [...,H,W] as float32 for images [...,H,W,3]; 0, negative, infinite and NaN mean "not measured".

    `settings` are the stream's; None for a clip. Raises ValueError for another shape, for integers, whose unit is unknown, and
    where neither a map nor the model would use the depth.
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
    """The next depths, one per frame [H,W,3], padded to [count,1,H,W]. None and the padding become 0: not measured.

    Raises ValueError when there are too few, for integers, whose unit is unknown, and for a shape other than the frame's.
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
        if depth.dtype.kind != "f":  # stacking with floats would hide it
            raise ValueError(f"depth must be floats, in metres, not {depth.dtype}")
    return np.stack(maps + [nothing] * (count - len(maps)))[:, None]


def queries_of(query_points: FrameArray, batch: int, height: int, width: int) -> Float32[Array, "{batch} N 2"]:
    """Query points [B,N,2] as float32, for frames of height×width pixels.

    Raises ValueError for any other shape, and for points outside the frame (`check_inside`).
    """
    if query_points.ndim != 3 or query_points.shape[0] != batch or query_points.shape[-1] != 2:
        raise ValueError(f"query_points must be [{batch},N,2] pixels, not {list(query_points.shape)}")
    check_inside(query_points, height, width)
    return jnp.array(query_points, jnp.float32)  # A copy, because the state is donated.


def marks(state: StreamState, where: FrameArray) -> Bool[Array, " B"]:
    """Which streams take part, as an array. Raises ValueError unless there is a bool for each; numbers would be taken for them."""
    where, batch = jnp.asarray(where), state.frame.shape[0]
    if where.shape != (batch,) or where.dtype != bool:
        raise ValueError(f"where must be a bool for each of {batch} streams, not {where.dtype} {list(where.shape)}")
    return where


def check_frames(model: Model, state: StreamState, frames: FrameArray, axes: int) -> None:
    """Raises ValueError for frames, with so many axes, of another shape than the state's, and for a model that does not fit it."""
    own = vars(replace(model.config, predicts=state.settings.model.predicts))  # the state's heads are checked below
    if other := [f"{name}={x}, not {own[name]}" for name, x in vars(state.settings.model).items() if x != own[name]]:
        raise ValueError(f"this state was started with another model: {'; '.join(other)}")
    model.check_heads(state.settings.heads)
    wanted = (state.frame.shape[0], state.settings.height, state.settings.width, 3)
    if frames.ndim != axes or tuple(frames.shape[-4:]) != wanted:
        expected = ["T"] * (axes - 4) + list(wanted)
        raise ValueError(f"frames must be {expected} for this state, not {list(frames.shape)}")


def check_inside(query_points: FrameArray, height: int, width: int) -> None:
    """Raises ValueError for a query point [...,2] outside a frame of height×width; compiled code cannot check values."""
    if isinstance(query_points, jax.core.Tracer) or query_points.shape[-1:] != (2,):  # a wrong shape is told elsewhere
        return
    points = np.asarray(query_points).reshape(-1, 2)
    # Pixel centres have whole coordinates, and a frame ends half a pixel beyond them.
    inside = ((points >= -0.5) & (points <= np.array([width, height]) - 0.5)).all(-1)
    if not inside.all():
        raise ValueError(f"query point {points[~inside][0].tolist()} is outside the frame of {width}×{height} pixels")


def focal_of(focal: FrameArray, batch: int, heads: tuple[str, ...]) -> jax.Array:
    """Known focal lengths [B,2] as float32. Raises ValueError for others, and without the heads camera and depth."""
    positive = isinstance(focal, jax.core.Tracer) or (np.asarray(focal) > 0).all()  # compiled code cannot check values
    if focal.shape != (batch, 2) or not positive or not {"camera", "depth"} <= set(heads):
        raise ValueError(
            f"focal must be positive lengths [{batch},2] of streams with the heads camera and depth, not {focal}"
        )
    return jnp.array(focal, jnp.float32)  # A copy, because the state is donated.
