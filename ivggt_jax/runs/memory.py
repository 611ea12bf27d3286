"""Available memory: the device's, or the machine's within every limit set for this process."""

import math
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import jax

from ivggt_jax.runs.room import Room

PROC = Path("/proc")
"""Where Linux describes the machine and this process."""
GROUP_FILES = {
    "cgroup2": (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    "cgroup": (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}
"""Files of a control group, by its file system: its limits, its usage, and the entry of memory.stat with the file pages that are
released first."""


def free_memory(mapped: int = 0) -> Room:
    """Memory that may still be allocated where the model runs: on the GPU, or in main memory under the smallest of all limits.

    mapped: bytes of mapped files that will be read, such as weights (`mapped_bytes`); a GPU holds no such files.
    """
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return Room(statistics["bytes_limit"] - statistics["bytes_in_use"], "the device's memory")
    rooms = [_of_machine(), *_of_control_groups(), *_of_process_limits()]
    return min((room.less(mapped) for room in rooms), key=lambda room: room.free)


def mapped_bytes(arrays: Iterable[jax.Array]) -> int:
    """Bytes of the arrays that lie in mapped files, which take memory only when first read."""
    try:
        lines = (PROC / "self" / "maps").read_text().splitlines()
    except OSError:
        return 0
    fields = [line.split(maxsplit=5) for line in lines]
    # The fifth field is the file's inode, 0 for memory without a file.
    files = [tuple(int(end, 16) for end in field[0].split("-")) for field in fields if field[4] != "0"]
    on_host = (x for x in arrays if x.devices() <= set(jax.local_devices(backend="cpu")))
    return sum(x.nbytes for x in on_host if any(low <= x.unsafe_buffer_pointer() < high for low, high in files))


def peak_memory() -> dict[str, int]:
    """Peak bytes so far: `host` (resident), and `device` if the backend reports it."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        peak["device"] = statistics["peak_bytes_in_use"]
    return peak


def gigabytes(count: float) -> str:
    """A number of bytes as text for people."""
    return f"{count / 1e9:.1f} GB"


def _of_machine() -> Room:
    bound = "this machine's memory"
    with suppress(OSError, StopIteration, ValueError):
        lines = (PROC / "meminfo").read_text().splitlines()
        return Room(next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")), bound)
    return Room(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2, bound)


def _of_control_groups() -> Iterator[Room]:
    """Room in every control group of this process, from its own up to the visible root."""
    for kind, folder in _group_folders():
        limits, used, given_up = GROUP_FILES[kind]
        with suppress(OSError, ValueError, KeyError):
            limit = min(_amount(folder / name) for name in limits)
            if limit == math.inf:
                continue
            free = int(limit - _amount(folder / used)) + _given_up(folder, given_up)
            yield Room(free, f"a control group's limit of {gigabytes(limit)}")


def _given_up(folder: Path, name: str) -> int:
    """Bytes that a group releases first, from that entry of its memory.stat; 0 if unknown."""
    with suppress(OSError, ValueError, StopIteration):
        lines = map(str.split, (folder / "memory.stat").read_text().splitlines())
        return next(int(words[1]) for words in lines if len(words) == 2 and words[0] == name)
    return 0


def _group_folders() -> Iterator[tuple[str, Path]]:
    """File system and folder of every control group that may limit this process's memory."""
    mounts = _group_mounts()
    with suppress(OSError, ValueError):
        for line in (PROC / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            kind = "cgroup" if "memory" in controllers.split(",") else "cgroup2" if not controllers else None
            if kind not in mounts:
                continue
            # A container may see names of the whole tree but only its own part of it, or other parts mounted as well.
            for root, mounted in [m for m in mounts[kind] if Path(path).is_relative_to(m[0])] or mounts[kind][-1:]:
                below = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
                folder = mounted / below if ".." not in below.parts else mounted
                yield from ((kind, place) for place in (folder, *folder.parents) if place.is_relative_to(mounted))


def _group_mounts() -> dict[str, list[tuple[str, Path]]]:
    """Mounts of the control groups of memory by file system: the mounted root and the mount point of each."""
    mounts: dict[str, list[tuple[str, Path]]] = {}
    with suppress(OSError, ValueError, IndexError):
        for line in (PROC / "self" / "mountinfo").read_text().splitlines():
            before, after = line.split(" - ", 1)
            kind, _, options = after.split(" ", 2)
            if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
                root, place = before.split(" ")[3:5]
                mounts.setdefault(kind, []).append((root, Path(place.replace("\\040", " "))))
    return mounts


def _amount(path: Path) -> float:
    """The value of a control group's file; "max", a missing file, and more than any machine has mean no limit."""
    if not path.exists():
        return math.inf
    text = path.read_text().strip()
    return math.inf if text == "max" or int(text) >= 1 << 60 else int(text)


def _of_process_limits() -> Iterator[Room]:
    """Room under limits set by the shell: `ulimit -v` on addresses, `ulimit -d` on data."""
    names = {"VmSize": (resource.RLIMIT_AS, "ulimit -v"), "VmData": (resource.RLIMIT_DATA, "ulimit -d")}
    with suppress(OSError, ValueError):
        fields = dict(line.split(":", 1) for line in (PROC / "self" / "status").read_text().splitlines())
        for name, (number, option) in names.items():
            limit, _ = resource.getrlimit(number)
            if limit != resource.RLIM_INFINITY and name in fields:
                free = limit - (int(fields[name].split()[0]) << 10)
                yield Room(free, f"a limit of {gigabytes(limit)} on this process ({option})", counts_mapped=False)
