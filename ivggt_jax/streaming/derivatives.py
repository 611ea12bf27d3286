"""Makes streams that cannot be differentiated say so at once."""

from typing import Any, NoReturn, TypeVar

import jax

from ivggt_jax.kernels import platform
from ivggt_jax.model.parameters import Model
from ivggt_jax.streaming.inputs import FrameArray, sensor_depth, unit
from ivggt_jax.streaming.state import StreamState

Tree = TypeVar("Tree")
BOUNDED = (
    "a stream that forgets has no derivatives: which tokens go is no smooth choice. Differentiate a stream that keeps "
    "everything, CacheConfig(total_budget=None, max_frames=…) without submaps, or infer_clip(…, mode='causal')"
)
ROUNDED = (
    "a stream with an int8 cache has no derivatives: rounding has none. Differentiate one with a cache in the trunk's type "
    "(CacheConfig without dtype)"
)
ON_GPU = "on a GPU a stream has no derivatives, for its kernels have none; differentiate infer_clip(…, mode='causal')"


def guarded(
    model: Model, state: StreamState, frames: FrameArray, depth: FrameArray | None
) -> tuple[Model, jax.Array, jax.Array | None]:
    """What a pass is computed from: the model, images in [0,1] and measured depth.

    Where the pass cannot be differentiated, differentiating with respect to any of them raises ValueError at once.
    """
    images, settings = unit(frames), state.settings
    inputs = (model, images, sensor_depth(model, settings, depth, images))
    if settings.cache.total_budget is not None or settings.submaps is not None:
        return _without_derivatives(BOUNDED, inputs)
    if settings.cache.dtype == "int8":
        return _without_derivatives(ROUNDED, inputs)
    return _without_derivatives(ON_GPU, inputs) if platform() == "gpu" else inputs


def _without_derivatives(why: str, inputs: Tree) -> Tree:
    @jax.custom_jvp
    def same(inputs: Tree) -> Tree:
        return inputs

    @same.defjvp
    def refuse(primals: Any, tangents: Any) -> NoReturn:
        raise ValueError(why)

    guarded: Tree = same(inputs)
    return guarded
