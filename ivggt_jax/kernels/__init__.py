"""GPU kernels that read one layer of the cache where it lies; XLA would copy the layer first, dead slots and all.

Written with Pallas for Triton. Without it, and for what the kernels do not fit, XLA and cuDNN do the work on a copy.
"""

import math
from typing import Any

import jax

try:
    from jax.experimental.pallas import triton

    plgpu: Any = triton
except ImportError:
    plgpu = None

BLOCK = 128
"""A cache that the kernels can read has a multiple of so many slots."""


def platform() -> str:
    """Where a computation will run that is traced now: cpu, gpu or another."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def can_read(keys: jax.Array) -> bool:
    """Whether there are kernels for a cache of keys [layer,B,slot,H,D]."""
    slots, head_dim = keys.shape[2], keys.shape[4]
    fits = slots % BLOCK == 0 and head_dim in (16, 32, 64)
    # Pallas counts elements with 32 bits up to so many bytes.
    size = math.prod(keys.shape)
    counted = size < 2**31 or size * keys.dtype.itemsize > 2**32
    return fits and counted and plgpu is not None and platform() == "gpu"
