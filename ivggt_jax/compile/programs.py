"""A stream's functions as programs on plain arrays, for `compile.artifact`: `start`, `step` and `reset`."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from ivggt_jax import geometry
from ivggt_jax.compile.options import Platform
from ivggt_jax.kernels import abstract_gpu
from ivggt_jax.model.parameters import Model, flatten, unflatten
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import reset, step

KERNELS = (export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton"),)
"""Attention on GPUs needs this custom call, for which JAX gives no compatibility guarantee."""


def export_programs(model: Model, begin: Callable[[], StreamState], platform: Platform) -> dict[str, export.Exported]:
    """The programs of a stream that `begin` creates, for a platform that need not be present; the model's arrays may be shapes.

    `start()` returns the state, a list of arrays; `step(weights, state, images)`, with weights by "/"-joined path and images
    [B,H,W,3] uint8, returns the next state and a dict of predictions (`named`); `reset(state, where)` returns a state in which
    the marked streams, [B] bool, start over.
    """
    config, state = model.config, jax.eval_shape(begin)
    settings, batch = state.settings, state.frame.shape[0]
    leaves, tree = jax.tree.flatten(state)

    def run_step(
        weights: dict[str, jax.Array], state: list[jax.Array], images: jax.Array
    ) -> tuple[list[jax.Array], dict[str, jax.Array]]:
        after, found = step(Model(config, unflatten(weights)), jax.tree.unflatten(tree, state), images)
        found_by_name = named(found)
        if found.pose_encoding is not None:
            cameras = geometry.cameras_from_pose(found.pose_encoding, settings.height, settings.width)
            found_by_name |= dict(zip(("cam_from_world", "intrinsics"), cameras, strict=True))
        return jax.tree.leaves(after), found_by_name

    def run_reset(state: list[jax.Array], where: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(reset(jax.tree.unflatten(tree, state), where))

    images = jax.ShapeDtypeStruct((batch, settings.height, settings.width, 3), jnp.uint8)
    where = jax.ShapeDtypeStruct((batch,), jnp.bool_)
    make = partial(export.export, platforms=(platform,), disabled_checks=KERNELS)
    with abstract_gpu() if platform == "cuda" else nullcontext():
        return {
            "start": make(jax.jit(lambda: jax.tree.leaves(begin())))(),
            "step": make(jax.jit(run_step, donate_argnums=1))(flatten(model.params), leaves, images),
            "reset": make(jax.jit(run_reset, donate_argnums=0))(leaves, where),
        }


def named(tree: Any) -> dict[str, jax.Array]:
    """The arrays of a pytree by the path of field names to them, such as "map.submap"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}
