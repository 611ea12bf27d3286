"""Distillation loss of depth and point maps, up to a scale and a shift per image (StreamVGGT's recipe).

Maps are [B,S,H,W,C] with C = 1 (depth) or 3 (points), masks [B,S,H,W]. The published formula pools each view over the batch; here
images are independent, so that a sample's loss does not depend on the rest of the batch.
"""

import jax
import jax.numpy as jnp

from ivggt_jax.train.losses.reduce import EPSILON, masked_mean, norm, unit, valid_or_all

CONFIDENCE_REWARD = 0.1
IMAGE = (2, 3)
VIEW_OVER_BATCH = (0, 2, 3)


def dense_loss(
    prediction: jax.Array,
    target: jax.Array,
    confidence: jax.Array,
    valid: jax.Array,
    *,
    reference: bool = False,
    normalize: bool = True,
) -> dict[str, jax.Array]:
    """Confidence-weighted L1 after affine alignment, minus a reward for confidence, plus a term for local shape.

    prediction, target: [B,S,H,W,C]; confidence, of the prediction: [B,S,H,W]; valid: bool [B,S,H,W]. An image (with `reference`:
    a view of the whole batch) without any valid pixel counts as entirely valid. `normalize` first divides both maps by their mean
    distance. `reference` reproduces the published formula: alignment ignores the mask, slopes are averaged over all pixels, and
    normals use every pixel, with zeros past the border.
    """
    axes = VIEW_OVER_BATCH if reference else IMAGE
    mask = valid_or_all(valid, axes)
    if normalize:
        prediction, target = prediction / mean_distance(prediction, mask), target / mean_distance(target, mask)
    aligned = align(prediction, target, jnp.ones_like(mask) if reference else mask, axes)
    confidence = jnp.maximum(confidence, EPSILON)
    error = confidence * jnp.mean(jnp.abs(aligned - target), -1)
    shape_loss = slope_loss if prediction.shape[-1] == 1 else normal_loss
    return {
        "error": jnp.mean(masked_mean(error, mask, axes)),
        "confidence": -CONFIDENCE_REWARD * jnp.mean(masked_mean(jnp.log(confidence), mask, axes)),
        "shape": shape_loss(aligned, target, mask, axes, reference=reference),
    }


def mean_distance(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean length of each image's masked vectors, clipped to [1e-3, 1e3]: [B,S,1,1,1] from [B,S,H,W,C]."""
    total = jnp.sum(jnp.where(mask, norm(values), 0.0), IMAGE)
    return jnp.clip(total / (jnp.sum(mask, IMAGE) + 1e-3), 1e-3, 1e3)[..., None, None, None]


def align(prediction: jax.Array, target: jax.Array, mask: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The prediction with the scale and the shift (per channel) that bring it closest to the target, differentiable."""
    mask = mask[..., None]
    prediction_mean, target_mean = masked_mean(prediction, mask, axes), masked_mean(target, mask, axes)
    centred = jnp.where(mask, prediction - prediction_mean, 0.0)
    covariance = jnp.sum(centred * (target - target_mean), (*axes, -1), keepdims=True)
    variance = jnp.sum(jnp.square(centred), (*axes, -1), keepdims=True)
    return covariance / jnp.maximum(variance, EPSILON) * (prediction - prediction_mean) + target_mean


def slope_loss(
    prediction: jax.Array, target: jax.Array, mask: jax.Array, axes: tuple[int, ...], *, reference: bool = False
) -> jax.Array:
    """Mean difference of the horizontal and vertical slopes of two depth maps [B,S,H,W,1], between valid neighbours."""
    height, width = mask.shape[-2:]
    difference = (prediction - target)[..., 0]
    losses = []
    for axis in IMAGE:
        slope = jnp.diff(difference, axis=axis)[..., : height - 1, : width - 1]
        both = (mask & jnp.roll(mask, -1, axis))[..., : height - 1, : width - 1]
        losses.append(masked_mean(jnp.abs(slope), both, axes, over=jnp.ones_like(both) if reference else None))
    return jnp.mean(jnp.stack(losses))


def normal_loss(
    prediction: jax.Array, target: jax.Array, mask: jax.Array, axes: tuple[int, ...], *, reference: bool = False
) -> jax.Array:
    """1 − mean cosine between the surface normals of two point maps [B,S,H,W,3], over strides 1, 2 and 4.

    A pixel has four normals, one for each pair of adjacent neighbours; a normal needs valid neighbours and a valid pixel.
    """
    losses = []
    for stride in (1, 2, 4):
        points, target_points, valid = (maps[:, :, ::stride, ::stride] for maps in (prediction, target, mask))
        first = _neighbours(jnp.ones_like(valid) if reference else valid)
        second = jnp.roll(first, -1, 0)
        # With both neighbours past the border, the reference's product is rounding noise around zero; here it is zero.
        usable = first | second if reference else first & second & valid
        cosine = jnp.sum(_normals(points) * _normals(target_points), -1)
        counted = jnp.ones_like(usable) if reference else usable
        over = (0, *(axis + 1 for axis in axes))
        mean = masked_mean(cosine, usable, over, over=counted)
        losses.append(jnp.mean(jnp.where(jnp.any(counted, over, keepdims=True), 1.0 - mean, 0.0)))
    return jnp.mean(jnp.stack(losses))


def _neighbours(pixels: jax.Array) -> jax.Array:
    """The pixels [4,B,S,H,W,…] above, left of, below and right of each pixel of [B,S,H,W,…]; zero (False) past the border."""
    padded = jnp.pad(pixels, [(1, 1) if axis in IMAGE else (0, 0) for axis in range(pixels.ndim)])
    middle = slice(1, -1)
    windows = ((slice(None, -2), middle), (middle, slice(None, -2)), (slice(2, None), middle), (middle, slice(2, None)))
    return jnp.stack([padded[:, :, rows, columns] for rows, columns in windows])


def _normals(points: jax.Array) -> jax.Array:
    """Unit normals [4,B,S,H,W,3]: up × left, left × down, down × right, right × up of the neighbours' offsets."""
    offsets = _neighbours(points) - points
    return unit(jnp.cross(offsets, jnp.roll(offsets, -1, 0)))
