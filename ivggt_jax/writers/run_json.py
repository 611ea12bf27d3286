"""`run.json`: what was run, on what, how long it took, and how to read the other files."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.disk.strict_json import read_json
from ivggt_jax.options.export import FORMATS
from ivggt_jax.writers.files import replacing

OUTPUTS_FILE = "outputs.json"
"""What an export records of its outputs in a folder without a run.json."""

CONVENTIONS = {
    "scale": "up to scale: one unit is the same length in all files of this run, and its metres are not known",
    "world": "the first camera's frame; OpenCV axes: x right, y down, z forward",
    **{known.files[0]: known.reading for known in FORMATS.values() if known.reading},
}
"""How to read the files, for a person or a program without their documentation."""


def write_run_json(out: Path, record: Mapping[str, Any]) -> None:
    """Write `run.json` into the folder `out`, atomically: `record` (settings, timings, …) and the conventions.

    Values are converted by `plain`. Raises TypeError for others, WriteError when the disk is full.
    """
    conventions = dict(CONVENTIONS)
    if recorded(record, "metric", "frames_with_depth"):
        conventions["scale"] = f"metres, by a depth sensor, from frame {recorded(record, 'metric', 'from_frame')} on"
    text = json.dumps(plain({**record, "conventions": conventions}), indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(out / "run.json") as file:
        file.write(f"{text}\n".encode())


def record_outputs(out: Path, records: Mapping[str, Any]) -> None:
    """Add the records of outputs that were written later to `outputs` in the folder's `run.json`, else to `outputs.json`.

    Raises WriteError when the disk is full.
    """
    if not records:
        return
    run = _readable(out / "run.json")
    if "conventions" in run:
        known = recorded(run, "outputs")
        write_run_json(out, {**run, "outputs": {**(known if isinstance(known, dict) else {}), **records}})
        return
    text = json.dumps(plain({**_readable(out / OUTPUTS_FILE), **records}), indent=2, allow_nan=False)
    with replacing(out / OUTPUTS_FILE) as file:
        file.write(f"{text}\n".encode())


def _readable(path: Path) -> dict[str, Any]:
    """The record in a file; empty if there is none that can be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def read_run_json(out: Path) -> dict[str, Any]:
    """The record in the folder `out`. Raises FileNotFoundError or ValueError, naming the file."""
    path = out / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {out} is not the output folder of a run")
    return read_json(path)


def recorded(record: object, *names: str) -> Any:
    """The value under nested names; None if there is none, as in a foreign record."""
    for name in names:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def plain(value: Any) -> Any:
    """Convert a value for JSON.

    It may consist of mappings and sequences, dataclasses, paths, NumPy scalars and arrays. Numbers that are not finite become
    null; bytes of a file name that are not text become \\x… Raises TypeError for anything else.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str | Path):
        return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, int | float):
        return value
    raise TypeError(f"run.json cannot hold {value!r} of type {type(value).__name__}")
