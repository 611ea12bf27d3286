"""GPU kernels that read one layer of the cache where it lies; XLA would copy the layer first, dead slots and all.

Written with Pallas for Triton. A JAX that no longer has that goes the way of float32, a CPU's: same numbers, slower.
"""

import jax

try:
    from jax.experimental.pallas import triton
except ImportError:
    triton = None  # type: ignore[assignment]

BLOCK = 128
"""A cache that the kernels can read has a multiple of so many slots."""


def can_read(keys: jax.Array) -> bool:
    """Whether there are kernels for a cache of keys [layer,B,slot,H,D]."""
    slots, head_dim = keys.shape[2], keys.shape[4]
    fits = slots % BLOCK == 0 and head_dim in (16, 32, 64, 128)
    return fits and triton is not None and jax.default_backend() == "gpu"
