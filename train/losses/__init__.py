"""Training objectives: distillation, divergence, supervised losses, and guidance of the trunk."""

from ivggt_jax.train.losses.guidance import guidance
from ivggt_jax.train.losses.objective import LossConfig, objective

__all__ = ["LossConfig", "guidance", "objective"]
