"""Supervision of the trunk itself, for a network trained from scratch: where does this patch lie in other frames?

Trained through its heads alone, a small network learns depth but keeps the camera still. To infer motion from correspondences it
must search, encode the displacement, and gather it, and none of these steps pays without the others. This loss supervises the
first two. It needs depth and cameras, and leaves nothing in the trained model.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax.geometry import project
from ivggt_jax.model.parameters import Model
from ivggt_jax.model.rope import rotation_table
from ivggt_jax.train.losses.reduce import masked_mean, norm

READOUT = 5
"""Channels of patch tokens that encode the displacement from the first frame (2) and the world point (3)."""
DEPTH_TOLERANCE = 0.05
"""How far behind the visible surface a point may lie, as a share of its depth."""


class Correspondences(NamedTuple):
    """Where the centres of the N patches of every frame lie in every frame."""

    place: jax.Array
    """[B,S,T,N,2] (x, y) in frame t of the N patch centres of frame s, in patches; (½, ½) is the centre of the first patch."""
    seen: jax.Array
    """bool [B,S,T,N]: inside frame t, not occluded, and of what stands still."""
    points: jax.Array
    """[B,S,N,3] world points, divided by the mean distance of all the clip's points."""
    known: jax.Array
    """bool [B,S,N]: the point is known."""


def guidance(
    model: Model, outputs: jax.Array, batch: Mapping[str, jax.Array], mode: Literal["offline", "causal"]
) -> dict[str, jax.Array]:
    """The two losses, unweighted scalars, from a clip's layer outputs [layer,B,S,P,2·width].

    matching: cross-entropy between a patch's attention to the patches of another frame and the four patches around its true
    place, in the first half of the heads of the global blocks at `dpt_layers`, except the last. Pairs of frames that do not see
    each other (causal: later ones) are left out. readout: distance of `READOUT` channels of patch tokens from displacement and
    world point, after the global blocks at `dpt_layers`, except the first; the last block alone would not do, because after it no
    camera token can gather the result. batch: valid, depth, points, cam_from_world, intrinsics, and moving if something moves.

    All clips have equal weight, so it does not matter which of them share a device.

    The scores of all pairs of frames are held at once, S²·N² per head and layer, so images must be small.
    """
    config = model.config
    rows, columns = config.patch_grid(*batch["valid"].shape[2:])
    clips, frames = outputs.shape[1:3]
    heads, patches = config.heads // 2, rows * columns
    true = correspondences(batch, config.patch_size)
    apart = np.tri(frames, k=-1, dtype=bool) if mode == "causal" else ~np.eye(frames, dtype=bool)
    # Both [B,1,S,N,T,…] like the scores. The barrier keeps XLA from computing the shares again wherever they are read.
    pairs = jnp.swapaxes(true.seen & apart[:, :, None], 2, 3)[:, None]
    target = jax.lax.optimization_barrier(jnp.swapaxes(_shares(true.place, rows, columns), 2, 3)[:, None])
    rotation = rotation_table(rows, columns, config.special_tokens, config.head_dim, config.rope_base)

    def matching(layer: int, within: jax.Array) -> jax.Array:
        block = jax.tree.map(lambda x: x[layer], model.network.aggregator.global_blocks)
        query, keys, _ = block.project(within, rotation)
        query, keys = (
            jnp.moveaxis(x[:, :, config.special_tokens :, :heads].astype(jnp.float32), 3, 1)
            .reshape(clips, heads, frames * patches, config.head_dim)
            for x in (query, keys)
        )  # fmt: skip
        scores = query / math.sqrt(config.head_dim) @ jnp.swapaxes(keys, -1, -2)
        scores = scores.reshape(clips, heads, frames, patches, frames, patches)
        surprise = jax.nn.logsumexp(scores, axis=-1) - jnp.sum(target * scores, axis=-1)
        return jnp.mean(masked_mean(surprise, pairs, (1, 2, 3, 4)))

    # The input of a global block is stored as the first half of its layer's output.
    layers = [
        matching(layer, output[..., : config.width])
        for layer, output in zip(config.dpt_layers[:-1], outputs[:-1], strict=True)
    ]
    told = outputs[1:, :, :, config.special_tokens :, config.width :][..., :READOUT].astype(jnp.float32)
    return {"matching": sum(layers, jnp.zeros(())) / len(layers), "readout": _readout(told, true)}


def correspondences(batch: Mapping[str, jax.Array], patch: int) -> Correspondences:
    """Correspondences from depth and cameras; a patch is represented by the pixel just right of and below its centre."""
    valid = batch["valid"]
    height, width = valid.shape[2:]
    points = jnp.where(valid[..., None], batch["points"], 0.0)
    scale = masked_mean(norm(points), valid, (1, 2, 3))
    scale = jnp.where(scale > 0, scale, 1.0)  # For a clip without a known point
    middles, known = (x[:, :, patch // 2 :: patch, patch // 2 :: patch] for x in (points, valid))
    middles, known = (x.reshape(*x.shape[:2], -1, *x.shape[4:]) for x in (middles, known))
    pixels, depth = project(middles[:, :, None], batch["cam_from_world"][:, None], batch["intrinsics"][:, None])
    pixels = jnp.where(depth[..., None] > 0, pixels, -1.0)
    column, row = (jnp.round(pixels[..., axis]).astype(jnp.int32) for axis in (0, 1))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    surface, there = (
        jnp.take_along_axis(x.reshape(*x.shape[:2], -1)[:, None], index, axis=-1) for x in (batch["depth"], valid)
    )
    in_front = there & (surface < depth / (1 + DEPTH_TOLERANCE))
    still = known
    if "moving" in batch:  # depth and cameras do not tell where it is in another frame
        still = known & ~batch["moving"][:, :, patch // 2 :: patch, patch // 2 :: patch].reshape(known.shape)
    seen = still[:, :, None] & (depth > 0) & inside & ~in_front
    return Correspondences((pixels + 0.5) / patch, seen, middles / scale, known)


def _shares(place: jax.Array, rows: int, columns: int) -> jax.Array:
    """Bilinear weights [..., N, rows·columns] of the patches around a place [..., N, 2]; at the border those of the nearest."""
    x, y = (
        jnp.clip(place[..., axis] - 0.5, 0, count - 1)[..., None] - jnp.arange(count)
        for axis, count in enumerate((columns, rows))
    )
    x, y = jnp.maximum(1 - jnp.abs(x), 0), jnp.maximum(1 - jnp.abs(y), 0)
    shares = y[..., :, None] * x[..., None, :]
    return shares.reshape(*shares.shape[:-2], rows * columns)


def _readout(told: jax.Array, true: Correspondences) -> jax.Array:
    """Errors of displacements, where the first frame sees the patch, and of world points, √(1+e²)−1 each."""
    own = jnp.moveaxis(jnp.diagonal(true.place, axis1=1, axis2=2), -1, 1)
    displacement = true.place[:, :, 0] - own
    moved = _pseudo_huber(told[..., :2] - jnp.where(true.seen[:, :, 0, :, None], displacement, 0.0))
    placed = _pseudo_huber(told[..., 2:] - true.points)
    return jnp.mean(masked_mean(moved, true.seen[:, :, 0], (0, 2, 3)) + masked_mean(placed, true.known, (0, 2, 3)))


def _pseudo_huber(error: jax.Array) -> jax.Array:
    return jnp.sqrt(1 + jnp.sum(jnp.square(error), -1)) - 1
