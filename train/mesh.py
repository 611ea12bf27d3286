"""Devices and processes: which computes which clips, and which keeps which parameters.

A mesh has two axes. Clips are divided over both. Parameters, their moments and averages are divided over `fsdp` and replicated
over `data` (ZeRO, arXiv 1910.02054): for a step a device gathers all parameters, computes the gradient of its own clips as a
single device would, and keeps its share of the updated parameters.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp")


def start_processes(distributed: bool = False) -> None:
    """Join the other processes of the run. Call it before anything is computed.

    This happens in Slurm job steps of several tasks, where each task takes one GPU; if the environment has
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID; and with `distributed`, where JAX
    detects the cluster (Open MPI and others). Raises ValueError when the environment is incomplete.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        if address:
            processes, process = (int(os.environ[name]) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
            jax.distributed.initialize(address, processes, process)
        elif distributed or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            jax.distributed.initialize()
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"the processes of the run cannot be found ({error}); start them with srun or mpirun, or set "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from None


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all processes (or `devices`) with axes (data, fsdp), the latter of size `fsdp`.

    Raises ValueError when `fsdp` does not divide the number of devices.
    """
    count = len(jax.devices() if devices is None else devices)
    if fsdp < 1 or count % fsdp:
        raise ValueError(f"fsdp must divide the number of devices, {count}; {fsdp} does not")
    return jax.make_mesh((count // fsdp, fsdp), AXES, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def shardings(mesh: Mesh, tree: Any) -> Any:
    """Shardings of parameters or optimiser state: each array is divided along its largest axis that `fsdp` divides.

    tree: anything with shapes. This is rarely the layer axis of stacked blocks, which is good: otherwise all devices would wait
    for the one that has the layer.
    """
    size = mesh.shape["fsdp"]

    def sharding(array: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(array.shape) if length % size == 0 and length >= size > 1]
        if not axes:
            return NamedSharding(mesh, P())
        largest = max(axes, key=lambda axis: array.shape[axis])
        return NamedSharding(mesh, P(*(None,) * largest, "fsdp"))

    return jax.tree.map(sharding, tree)


def divide(mesh: Mesh, tree: Any) -> Any:
    """Divide arrays over devices, inside jit, as `shardings` says."""
    return lax.with_sharding_constraint(tree, shardings(mesh, tree))


def gather(mesh: Mesh, tree: Any) -> Any:
    """Replicate arrays on every device, inside jit, so that every process can read them."""
    return lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def process_rows(mesh: Mesh, batch_size: int) -> slice:
    """The rows of a batch that this process has to load.

    Raises ValueError when the devices cannot share the batch evenly.
    """
    if batch_size % mesh.size:
        raise ValueError(f"a batch of {batch_size} clips cannot be shared by {mesh.size} devices; take a multiple")
    indices = _clips(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = [range(batch_size)[index[0]] for index in indices if index is not None]
    return slice(min(row.start for row in rows), max(row.stop for row in rows))


def place(mesh: Mesh, batch: Mapping[str, np.ndarray | jax.Array]) -> dict[str, jax.Array]:
    """This process's clips [rows,…] as its part of the batch on all devices."""
    return {name: jax.make_array_from_process_local_data(_clips(mesh), array) for name, array in batch.items()}


def mean_over_devices(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Call `function(whole, clips)` on every device with its own clips, and average what they return.

    This is explicit instead of left to the compiler's partitioning, so that each device runs exactly the program of a single
    device. The compiler would split loops over frames and have each device do every frame's work.
    """

    def local(whole: Any, clips: Any) -> Any:
        return lax.pmean(function(whole, clips), AXES)

    return jax.shard_map(local, mesh=mesh, in_specs=(P(), P(AXES)), out_specs=P(), check_vma=False)


def each_device(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Call `function(whole, clips)` on every device with its own clips, and return all results, clip by clip."""
    return jax.shard_map(function, mesh=mesh, in_specs=(P(), P(AXES)), out_specs=P(AXES), check_vma=False)


def _clips(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(AXES))
