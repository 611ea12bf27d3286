"""The machine: its description, its speed of computing and moving data, and the memory of a process."""

import contextlib
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ivggt_jax.runs.memory import peak_memory

REPEATS = 5


def describe() -> dict[str, Any]:
    """A description of the machine."""
    device = jax.local_devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "processor": platform.machine(),
        "threads": threads(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def threads() -> int:
    """Number of processors that this process may use; both our code and PyTorch's use as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matrix_rate(dtype: DTypeLike) -> float:
    """Operations per second in a product of large square matrices, at JAX's default precision; the best of several runs."""
    side = 8192 if jax.default_backend() == "gpu" else 2048
    left, right = jax.random.normal(jax.random.key(0), (2, side, side), dtype)
    product = jax.jit(jnp.dot)
    return 2 * side**3 / _best(lambda: product(left, right))


def bandwidth() -> float:
    """Bytes read and written per second in a pass over an array too large for any cache; the best of several runs."""
    size = (1 << 30 if jax.default_backend() == "gpu" else 1 << 28) // 4
    array = jnp.ones(size, jnp.float32)
    halve = jax.jit(lambda x: 0.5 * x)
    return 2 * array.nbytes / _best(lambda: halve(array))


def seconds(function: Callable[[], Any]) -> float:
    """Time in seconds until a call's result is ready."""
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def forget_peak() -> None:
    """Reset the host's peak memory (Linux; elsewhere it stays that of the whole process)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident() -> int:
    """Bytes that the process holds now (Linux; elsewhere its peak so far)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory()["host"]


def device_bytes() -> int | None:
    """Bytes that arrays take on the device now; None if the backend does not report them."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_in_use")


def _best(function: Callable[[], Any]) -> float:
    seconds(function)  # compiles
    return float(np.min([seconds(function) for _ in range(REPEATS)]))
