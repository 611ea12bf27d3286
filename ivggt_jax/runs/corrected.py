"""Results in the corrected map, after loops have shown where the chain of submaps drifted."""

from pathlib import Path
from typing import Any

from ivggt_jax.mapping.map_files import LOOPS_FILE, SUBMAPS_FILE, read_loops, read_submaps
from ivggt_jax.writers.saved_run import Move

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


def describe_correction(record: dict[str, Any]) -> str:
    """The record in a line."""
    loops = record["loops"]
    kept, refused = loops.get("kept", 0), sum(loops.values()) - loops.get("kept", 0)
    if not kept and not record["largest_move"]:
        stays = "only the unit of earlier frames changes" if record["growth"] else "the map stays as it was"
        return f"no loop was {f'believed, of {refused}' if refused else 'found'}: {stays}"
    return (
        f"corrected by {kept} loops ({refused} more were not believed): "
        f"{record['submaps']} submaps moved by up to {record['largest_move']:.3g} of the model's unit"
    )
