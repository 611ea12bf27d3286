"""What the commands share: arguments to a dataclass, the compilation cache, memory figures, messages as plain lines."""

import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypeVar

import jax
import tyro
from tqdm import tqdm

from ivggt_jax.weights.hub import cache_folder

Config = TypeVar("Config")
CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux says what a container may take (version 2 of control groups)."""
USER_ERRORS = (ValueError, OSError, MemoryError)
"""Of the library and its files: their message says what is wrong and what to do, a traceback would hide it."""


def run_command(
    config: Callable[..., Config], run: Callable[[Config], int], arguments: Sequence[str] | None, program: str
) -> NoReturn:
    """Parse the command line into `config`, run, and exit with its code.

    1 and one line for an error, 130 for Ctrl-C and SIGTERM.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what is half written is removed
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(compiled_folder()))
    warnings.filterwarnings("ignore", module="PIL")  # whatever matters in a damaged image comes as an error
    logging.basicConfig(level=logging.WARNING, handlers=[_PlainLines()])
    try:
        code = run(tyro.cli(config, args=arguments, prog=program, description=run.__doc__))
    except USER_ERRORS as error:
        say(f"error: {error}")
        code = 1
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say(f"error: the device's memory is full; docs/troubleshooting.md says what needs less ({_first_line(error)})")
        code = 1
    except KeyboardInterrupt:
        say("interrupted")
        code = 130
    sys.exit(code)


def say(text: str) -> None:
    """A line for the user, on standard error, above a progress bar where there is one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def compiled_folder() -> Path:
    """Where compiled programs are kept, unless JAX_COMPILATION_CACHE_DIR names another place."""
    return cache_folder() / "compiled"


def free_memory() -> int:
    """Bytes that may still be allocated where the model runs: on the GPU, or in main memory and within the container."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with suppress(OSError, ValueError):  # "max" is no number: no limit
        limit, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
        kept = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(kept.get("inactive_file", 0)))
    return free


def peak_memory() -> dict[str, int]:
    """Most bytes held so far: `host` (resident), and `device` where the backend counts them."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        peak["device"] = statistics["peak_bytes_in_use"]
    return peak


class _PlainLines(logging.Handler):
    """What the library logs, one plain line each: "warning: skipped: …"."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
