"""Devices and processes: who computes which clips, and who keeps which parameters.

A mesh has two axes. Clips are divided over both. Parameters, their moments and averages are divided over `fsdp` and
repeated over `data` (ZeRO, arXiv 1910.02054): a device gathers the whole parameters for a step, computes the gradient of
its own clips as a single device would, and keeps its share of the updated ones.
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
    """Join the other processes of the run; to be called before anything is computed.

    Happens in every Slurm job step of several tasks, where each takes one GPU; where the environment has
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID; and when `distributed` asks
    for it, as JAX finds it out (Open MPI and others). Raises ValueError when the environment does not tell.
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
    """All devices of all processes (or `devices`) as axes (data, fsdp), the latter of the size given.

    Raises ValueError when it does not divide the number of devices.
    """
    count = len(jax.devices() if devices is None else devices)
    if fsdp < 1 or count % fsdp:
        raise ValueError(f"fsdp must divide the number of devices, {count}; {fsdp} does not")
    return jax.make_mesh((count // fsdp, fsdp), AXES, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def shardings(mesh: Mesh, tree: Any) -> Any:
    """How arrays of parameters or optimizer state are divided: each along its largest axis that `fsdp` divides.

    tree: anything with shapes. The layer axis of stacked blocks is rarely the largest, which is as well: all devices
    would wait for the one that has the layer.
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
    """Arrays inside jit, divided over devices as `shardings` says."""
    return lax.with_sharding_constraint(tree, shardings(mesh, tree))


def gather(mesh: Mesh, tree: Any) -> Any:
    """Arrays inside jit, whole on every device, so that every process can read them."""
    return lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def process_rows(mesh: Mesh, batch_size: int) -> slice:
    """The clips of a batch that this process has to load.

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
    """`function(whole, clips)` of every device's own clips, and the mean of what they return.

    Called that way, and not left to the compiler's partitioning: a device runs the very program of a single one. The
    compiler would split loops over frames, and have each device do every frame's work.
    """

    def local(whole: Any, clips: Any) -> Any:
        return lax.pmean(function(whole, clips), AXES)

    return jax.shard_map(local, mesh=mesh, in_specs=(P(), P(AXES)), out_specs=P(), check_vma=False)


def each_device(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(whole, clips)` of every device's own clips, and all that they return, clip by clip."""
    return jax.shard_map(function, mesh=mesh, in_specs=(P(), P(AXES)), out_specs=P(AXES), check_vma=False)


def _clips(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(AXES))
