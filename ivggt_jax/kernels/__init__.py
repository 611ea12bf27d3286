"""GPU kernels: two read one layer of the cache in place, where XLA would copy it, dead slots too; one chooses without sorting.

Written with Pallas for Triton. Without it, and for cases that the kernels do not support, XLA and cuDNN work on a copy.
"""

import math
import warnings
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.sharding import AbstractDevice, AbstractMesh

try:
    from jax.experimental.pallas import triton

    plgpu: Any = triton
except ImportError:
    plgpu = None

BLOCK = 128
"""The kernels can read a cache whose number of slots is a multiple of this."""


def platform() -> str:
    """Platform of a computation that is being traced: cpu, gpu or another. Within `abstract_gpu` it is gpu even without one."""
    if (abstract := jax.sharding.get_abstract_mesh().abstract_device) is not None:
        return abstract.platform
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def abstract_gpu() -> AbstractContextManager[Any]:
    """Trace for a GPU, an H200, even if there is none."""
    mesh = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu"))
    return jax.sharding.use_abstract_mesh(mesh)


def can_read(keys: jax.Array) -> bool:
    """Whether kernels support a cache of keys [layer,B,slot,H,D].

    Warns if a GPU has a cache large enough for them but they cannot be used; the replacement is much slower.
    """
    if platform() != "gpu" or keys.shape[2] % BLOCK:  # caches of other sizes are small and quickly copied
        return False
    # Pallas counts elements with 32 bits up to this many bytes.
    size = math.prod(keys.shape)
    counted = size < 2**31 or size * keys.dtype.itemsize > 2**32
    if plgpu is None:
        why = "this JAX has no Pallas for Triton"
    elif keys.shape[4] not in (16, 32, 64):
        why = f"heads of {keys.shape[4]} channels are none that the GPU kernels know"
    elif not counted:
        why = "the GPU kernels cannot count the elements of int8 caches of 2 to 4 GiB (--max-memory, --budget)"
    else:
        return True
    warnings.warn(
        f"every layer of the cache is copied before it is read, since {why}: the full model's frame took 69 ms that way, "
        "and 50 ms with the kernels (H200, 1,200,000 tokens)",
        stacklevel=2,
    )
    return False
