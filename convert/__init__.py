"""Converts PyTorch checkpoints to this project's models and back, without PyTorch."""

from ivggt_jax.convert.assembly import ConversionError
from ivggt_jax.convert.parameters import from_torch, to_torch

__all__ = ["ConversionError", "from_torch", "to_torch"]
