"""PyTorch checkpoints to this project's models and back, without PyTorch."""

from convert.parameters import ConversionError, from_torch, to_torch

__all__ = ["ConversionError", "from_torch", "to_torch"]
