"""An H200 to compile for, without having one.

Needs `pip install -e '.[cuda13]'` and JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1. Nothing is measured on a device, so XLA guesses where it
would try: on a GPU some kernels are others.
"""

from functools import partial
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from ivggt_jax.kernels import abstract_gpu

H200 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132 clock_rate_ghz: 1.98 fpus_per_core: 128 threads_per_warp: 32
  threads_per_block_limit: 1024 threads_per_core_limit: 2048 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  l2_cache_size: 52428800 device_memory_size: 151397597184 memory_bandwidth: 4800000000000
}
"""


def compiled(function: Any, *arguments: Any) -> jax.stages.Compiled:
    """A jitted function, compiled for arguments of which only shapes and types are asked."""
    device = topologies.get_topology_desc("h200", "cuda", target_config=H200, topology="1x1x1").devices[0]
    there = partial(jax.ShapeDtypeStruct, sharding=SingleDeviceSharding(device))
    arguments = jax.tree.map(lambda x: there(x.shape, x.dtype), arguments)
    with jax.default_device(device), abstract_gpu():
        return function.trace(*arguments).lower(lowering_platforms=("cuda",)).compile()
