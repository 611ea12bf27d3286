"""Training objectives: distillation, divergence, supervised losses, and guidance of the trunk."""

from train.losses.guidance import guidance
from train.losses.objective import LossConfig, objective

__all__ = ["LossConfig", "guidance", "objective"]
