"""Results in the corrected map, after loops have shown where the chain of submaps drifted."""

import contextlib
from pathlib import Path
from typing import Any

from ivggt_jax.mapping.map_files import LOOPS_FILE, SUBMAPS_FILE, Growth, read_growth, read_loops, read_submaps
from ivggt_jax.writers.saved_run import Change, Move, moved, to_one_unit

CORRECTED, MAP_FILE = "corrected", "map.json"
"""The subfolder of a run for results in the corrected map, and the file there that describes the correction."""


def read_correction(out: Path) -> tuple[Move, dict[str, Any]]:
    """The correction of the map of the run in a folder, and its record for `corrected/map.json`.

    Raises ValueError when the run was made without loops, or its files are damaged.
    """
    if missing := [name for name in (SUBMAPS_FILE, LOOPS_FILE) if not (out / name).is_file()]:
        raise ValueError(f"{out} has no {missing[0]}: ivggt writes it with --loops")
    # Imported here, because GTSAM takes a while and most runs have no loops.
    from ivggt_jax.mapping.correction import correct

    if not (submaps := read_submaps(out / SUBMAPS_FILE)):
        raise ValueError(f"{out / SUBMAPS_FILE} holds no submap")
    correction = correct(submaps, read_loops(out / LOOPS_FILE))
    return correction, correction.record()


MapAt = tuple[float | None, Growth | None]
"""When the map of a run was corrected, and how its unit changed; None: not yet."""


def state_of_map(out: Path) -> MapAt:
    """What the places of a run's saved frames in its map depend on, which may change while it goes on."""
    at, growth = None, None
    with contextlib.suppress(OSError):
        at = (out / CORRECTED / MAP_FILE).stat().st_mtime
    with contextlib.suppress(OSError, ValueError):  # it is just being restarted
        growth = read_growth(out / SUBMAPS_FILE)
    return at, growth


def changes_of(out: Path, state: MapAt) -> tuple[Change, ...]:
    """The changes that bring a run's saved frames to their places in its map."""
    at, growth = state
    changes = to_one_unit(growth)
    if at is not None:
        with contextlib.suppress(OSError, ValueError):  # it is just being restarted
            correction, _ = read_correction(out)
            changes += (lambda number, result: moved(result, number, correction),)
    return changes


def describe_correction(record: dict[str, Any]) -> str:
    """The record in a line."""
    loops = record["loops"]
    kept, refused = loops.get("kept", 0), sum(loops.values()) - loops.get("kept", 0)
    if not kept and not record["largest_move"]:
        return f"no loop was {f'believed, of {refused}' if refused else 'found'}: the map stays as it was"
    return (
        f"corrected by {kept} loops ({refused} more were not believed): "
        f"{record['submaps']} submaps moved by up to {record['largest_move']:.3g} of the model's unit"
    )
