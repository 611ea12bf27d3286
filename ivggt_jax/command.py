"""What the commands share: arguments to a dataclass, the compilation cache, memory figures, errors as one line."""

import os
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import jax
import tyro

Config = TypeVar("Config")
USER_ERRORS = (ValueError, OSError, MemoryError)
"""Of the library and its files: their message says what is wrong and what to do, a traceback would hide it."""


def cache_folder() -> Path:
    """Where converted weights and compiled programs are kept: `IVGGT_CACHE`, or ~/.cache/ivggt_jax."""
    return Path(os.environ.get("IVGGT_CACHE") or Path.home() / ".cache" / "ivggt_jax")


def run_command(
    config: Callable[..., Config], run: Callable[[Config], int], arguments: Sequence[str] | None, program: str
) -> NoReturn:
    """Parse the command line into `config`, run, and exit with its code; 1 and one line for an error, 130 for Ctrl-C."""
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    try:
        code = run(tyro.cli(config, args=arguments, prog=program, description=run.__doc__))
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def free_memory() -> int:
    """Bytes that may still be allocated where the model runs: on the GPU, or in main memory."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def peak_memory() -> dict[str, int]:
    """Most bytes held so far: `host` (resident), and `device` where the backend counts them."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        peak["device"] = statistics["peak_bytes_in_use"]
    return peak
