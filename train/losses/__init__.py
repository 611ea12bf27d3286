"""Training objectives: distillation, divergence and supervised losses."""

from train.losses.objective import LossConfig, objective

__all__ = ["LossConfig", "objective"]
