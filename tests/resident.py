"""Resident memory of this process, read where Linux keeps it."""

from pathlib import Path


def resident_bytes(peak: bool = False) -> int:
    """What is resident now, or (peak) what was at most since the process began."""
    name = "VmHWM" if peak else "VmRSS"
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[name].split()[0]) * 1024
