"""Parts of a broken map: where they begin, and a warning, because how they lie to each other is unknown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ivggt_jax.disk.strict_json import read_json
from ivggt_jax.mapping.map_files import SUBMAPS_FILE, read_submaps
from ivggt_jax.runs.corrected import CORRECTED, MAP_FILE
from ivggt_jax.writers.run_json import recorded

LISTED = 8
"""Most parts whose first frames are listed."""
UNKNOWN = "how they lie to each other is unknown"
DOCS = "(docs/mapping.md)"


def begins(out: Path) -> list[int]:
    """First frames of the parts of the map of a run, by their numbers in the source; empty without submaps, or if the file is
    damaged."""
    try:
        submaps = read_submaps(out / SUBMAPS_FILE)
    except (OSError, ValueError):
        return []
    return list({record.part: record.index for record in reversed(submaps)}.values())[::-1]


def after_joining(record: Mapping[str, Any], parts: list[int]) -> list[int]:
    """First frames of the parts that remain after joining, by the record in `corrected/map.json`; `parts` if it has other ones."""
    found = recorded(record, "parts_begin_after_joining")
    return found if isinstance(found, list) and found and recorded(record, "parts") == len(parts) else parts


def warn_of_run(out: Path) -> str | None:
    """What to say at the end of a run whose map is in several parts; None if it is in one."""
    if len(parts := begins(out)) < 2:
        return None
    try:
        left = after_joining(read_json(out / CORRECTED / MAP_FILE), parts)
    except (OSError, ValueError):
        left = parts
    if len(left) == len(parts):
        return f"{_listed(parts)}: {UNKNOWN} {DOCS}"
    if len(left) == 1:
        return f"{_listed(parts)}: loops joined them in {CORRECTED}/ only, elsewhere {UNKNOWN} {DOCS}"
    return f"{_listed(parts)}: {UNKNOWN}; in {CORRECTED}/, loops leave {len(left)} parts {DOCS}"


def warn_of_export(parts: Sequence[int]) -> str | None:
    """What to say when parts with these first frames are exported together; None for one part."""
    return f"{_listed(parts)}: {UNKNOWN}, and all go into one model {DOCS}" if len(parts) > 1 else None


def _listed(parts: Sequence[int]) -> str:
    frames = [f"{first}" for first in parts[:LISTED]]
    more = len(parts) - len(frames)
    frames = [*frames, f"{more} more"] if more else frames
    return f"the map is in {len(parts)} parts, which begin at frames {', '.join(frames[:-1])} and {frames[-1]}"
