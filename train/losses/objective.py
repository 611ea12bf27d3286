"""The training objective L = w·L_task + λ·L_distillation, with every term by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ivggt_jax.model.heads import HEADS
from ivggt_jax.train.losses.camera import camera_loss
from ivggt_jax.train.losses.dense import dense_loss
from ivggt_jax.train.losses.divergence import bernoulli_divergence, laplace_divergence
from ivggt_jax.train.losses.reduce import masked_mean, valid_or_all
from ivggt_jax.train.losses.task import task_losses
from ivggt_jax.train.losses.tracks import reference_track_loss, track_loss

Fields = Mapping[str, jax.Array]
Terms = dict[str, dict[str, jax.Array]]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The weights of the objective. Raises ValueError when nothing would be minimised."""

    distillation: Literal["distill", "kl"] = "distill"
    """How the student follows the teacher: StreamVGGT's formula, or KL(student ‖ teacher) of Laplace distributions."""
    distillation_weight: float = 1.0
    """Weight of the distillation loss, λ; 0 needs no teacher."""
    task_weight: float = 0.0
    """Weight of the supervised loss; 0 needs no ground truth."""
    reference: bool = False
    """Reproduce StreamVGGT's `distill` formula exactly, with its defects."""
    camera: float = 20.0
    """Weight of the camera head's losses, in every objective."""
    depth: float = 20.0
    """Weight of the depth head's losses."""
    points: float = 10.0
    """Weight of the point head's losses."""
    tracks: float = 0.5
    """Weight of the tracker's losses."""
    motion: float = 20.0
    """Weight of the motion head's losses."""
    relative: float = 0.0
    """Weight of relative poses of frames 1, 4 and 16 apart, against ground truth only; see `relative_pose_loss`."""
    log_depth: float = 0.0
    """Weight of the error of log depth, against ground truth only."""
    matching: float = 0.0
    """Weight of the loss that trains global attention to find correspondences (`train.losses.guidance`); 0: none."""
    readout: float = 0.0
    """Weight of the loss that trains patch tokens to encode their place in the first frame and in the world; 0: none."""

    def __post_init__(self) -> None:
        if self.distillation_weight <= 0 and self.task_weight <= 0:
            raise ValueError("distillation_weight and task_weight are both 0: there is nothing to minimise")
        if (self.is_guided or self.relative > 0 or self.log_depth > 0) and self.task_weight <= 0:
            raise ValueError(
                "relative, log_depth, matching and readout come from ground truth: task_weight must be above 0"
            )
        if self.reference and self.distillation != "distill":
            raise ValueError(f"reference=True is about distillation='distill', not {self.distillation!r}")
        if (self.reference or self.distillation == "kl") and self.distillation_weight <= 0:
            raise ValueError("reference and kl are ways to distil: distillation_weight must be above 0")

    @property
    def is_guided(self) -> bool:
        """Whether the trunk's tokens are supervised directly, not only through the heads."""
        return self.matching > 0 or self.readout > 0


def objective(
    config: LossConfig,
    prediction: Any,
    batch: Fields,
    teacher: Any = None,
    *,
    train: bool = True,
    guidance: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of a batch and its weighted terms, all float32 scalars.

    prediction, teacher: `Predictions` with leading axes [B,S]; heads that either lacks are left out. batch: may hold valid, bool
    [B,S,H,W] (default: every pixel), and for the task loss what `task_losses` needs. guidance: the losses of
    `train.losses.guidance`, part of the task loss. Terms are named objective/head, their parts objective/head_part, the sum
    "loss". `train=False` leaves out the normalisation of the reference formula, as its evaluation does. Raises ValueError when a
    teacher or ground truth is missing.
    """
    student = _fields(prediction)
    objectives: list[tuple[str, float, Terms]] = []
    if config.task_weight > 0:
        missing = {"valid", "depth", "points", "cam_from_world", "intrinsics"} - set(batch)
        if missing:
            raise ValueError(f"task_weight {config.task_weight} needs ground truth; the batch lacks {sorted(missing)}")
        objectives.append(("task", config.task_weight, task_losses(student, batch)))
        if guidance is not None:
            objectives.append(("task", config.task_weight, {name: {"error": guidance[name]} for name in guidance}))
    if config.distillation_weight > 0:
        if teacher is None:
            raise ValueError(f"distillation_weight {config.distillation_weight} needs the teacher's predictions")
        target = jax.lax.stop_gradient(_fields(teacher))
        if config.distillation == "kl":
            losses = kl_losses(student, target, batch.get("valid"))
        else:
            losses = distill_losses(student, target, batch.get("valid"), reference=config.reference, train=train)
        objectives.append((config.distillation, config.distillation_weight, losses))
    return _weigh(config, objectives)


def distill_losses(
    student: Fields, teacher: Fields, valid: jax.Array | None = None, *, reference: bool = False, train: bool = True
) -> Terms:
    """StreamVGGT's distillation loss by head and part, unweighted; `reference` with its defects. Shapes as in `objective`."""
    losses: Terms = {}
    for head in _shared(student, teacher):
        ours, theirs = ([fields[name] for name in HEADS[head].fields] for fields in (student, teacher))
        if head == "camera":
            losses[head] = camera_loss(ours[0], theirs[0], reference=reference)
        elif head == "tracks":
            loss = reference_track_loss if reference else track_loss
            losses[head] = loss(ours[0], ours[1], ours[2], theirs[0], theirs[1])
        elif len(ours) == 1:  # a dense head without confidence predicts probabilities
            losses[head] = {"divergence": jnp.mean(bernoulli_divergence(ours[0], theirs[0]))}
        else:
            shape = (*ours[1].shape, -1)
            losses[head] = dense_loss(
                ours[0].reshape(shape), theirs[0].reshape(shape), ours[1], _mask(valid, ours[1]),
                reference=reference, normalize=train or not reference,
            )  # fmt: skip
    return losses


def kl_losses(student: Fields, teacher: Fields, valid: jax.Array | None = None) -> Terms:
    """KL(student ‖ teacher) of depth, points, visibility and motion; camera and track positions as in `distill_losses`."""
    losses: Terms = {}
    for head in _shared(student, teacher):
        ours, theirs = ([fields[name] for name in HEADS[head].fields] for fields in (student, teacher))
        if head == "camera":
            losses[head] = camera_loss(ours[0], theirs[0])
        elif head == "tracks":
            divergence = jnp.mean(bernoulli_divergence(ours[1], theirs[1]))
            losses[head] = track_loss(ours[0], ours[1], ours[2], theirs[0], theirs[1]) | {"visibility": divergence}
        elif len(ours) == 1:  # a dense head without confidence predicts probabilities
            losses[head] = {"divergence": jnp.mean(bernoulli_divergence(ours[0], theirs[0]))}
        else:
            shape = (*ours[1].shape, -1)
            pixels = laplace_divergence(ours[0].reshape(shape), ours[1], theirs[0].reshape(shape), theirs[1])
            mask = valid_or_all(_mask(valid, ours[1]), (2, 3))
            losses[head] = {"divergence": jnp.mean(masked_mean(pixels, mask, (2, 3)))}
    return losses


def _fields(prediction: Any) -> Fields:
    """The fields that are present, in float32 whatever the network's type."""
    names = [name for head in HEADS.values() for name in head.fields]
    values = {name: getattr(prediction, name) for name in names}
    return {name: value.astype(jnp.float32) for name, value in values.items() if value is not None}


def _shared(student: Fields, teacher: Fields) -> list[str]:
    """Heads that both predict. Raises ValueError when there are none."""
    heads = [
        name for name, head in HEADS.items() if all(field in student and field in teacher for field in head.fields)
    ]
    if not heads:
        raise ValueError(f"student {sorted(student)} and teacher {sorted(teacher)} have no head in common")
    return heads


def _mask(valid: jax.Array | None, pixels: jax.Array) -> jax.Array:
    return jnp.ones(pixels.shape, bool) if valid is None else valid


def _weigh(config: LossConfig, objectives: list[tuple[str, float, Terms]]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum, and every weighted term; terms of weight 0 are dropped, so that jit never computes them."""
    total = jnp.zeros(())
    terms: dict[str, jax.Array] = {}
    for name, weight, losses in objectives:
        for head, parts in losses.items():
            factor = weight * getattr(config, head)
            if factor == 0:
                continue
            terms |= {f"{name}/{head}_{part}": factor * value for part, value in parts.items()}
            terms[f"{name}/{head}"] = factor * sum(parts.values())
            total += terms[f"{name}/{head}"]
    return total, terms | {"loss": total}
