"""`manifest.jsonl` and `manifest.parquet`: a row for every source of a job, with its status."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Literal, get_args

from ivggt_jax.disk.names import fitting_name
from ivggt_jax.disk.strict_json import parse_json
from ivggt_jax.runs.output_folder import default_out
from ivggt_jax.writers.files import replacing
from ivggt_jax.writers.run_json import plain

Status = Literal["waiting", "done", "failed", "stopped"]
"""`stopped`: the job was interrupted; the source continues when the job is started again."""

RESERVED = ("manifest.jsonl", "manifest.parquet", "workers", "inputs")
"""Other names in a job's folder."""


@dataclass(frozen=True)
class Row:
    """One source."""

    source: str
    path: str
    """Its folder, below the job's."""
    status: Status = "waiting"
    frames: int | None = None
    seconds: float | None = None
    """Duration of the last attempt."""
    worker: str | None = None
    """Host and process of the last attempt."""
    error: str | None = None


def read(out: Path) -> list[Row]:
    """The rows of an earlier start of the job in a folder; empty if there was none. Raises ValueError for other files."""
    path = out / "manifest.jsonl"
    if not path.is_file():
        return []
    try:
        lines = path.read_bytes().splitlines()
        rows = [Row(**parse_json(line, f"line {number}")) for number, line in enumerate(lines, 1)]
        for number, row in enumerate(rows, 1):
            if not _is_sound(row):
                raise ValueError(f"line {number} has values that no row has")
        if len({row.path for row in rows}) < len(rows):
            raise ValueError("two sources have the same folder")
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the manifest of a job ({error}): choose another --out") from error
    return rows


def _is_sound(row: Row) -> bool:
    """Whether values have the right types and the source's folder is inside the job's."""
    texts = [value for value in (row.worker, row.error) if value is not None]
    return (
        all(isinstance(text, str) for text in (row.source, row.path, *texts))
        and row.status in get_args(Status)
        and (row.frames is None or type(row.frames) is int)
        and (row.seconds is None or type(row.seconds) in (int, float))
        and row.path not in RESERVED
        and not row.path.startswith(".")
        and PurePath(row.path).parts == (row.path,)
    )


def write(out: Path, rows: Iterable[Row]) -> None:
    """Replace the manifest, as JSON lines, and as Parquet if pyarrow is installed. Raises WriteError on a full disk."""
    records = [plain(row) for row in rows]  # an error may name a file that is not in UTF-8
    with replacing(out / "manifest.jsonl") as file:
        file.writelines(f"{json.dumps(record, ensure_ascii=False)}\n".encode() for record in records)
    if records and find_spec("pyarrow"):
        import pyarrow
        from pyarrow import parquet

        kinds = {"frames": pyarrow.int64(), "seconds": pyarrow.float64()}
        names = [entry.name for entry in dataclasses.fields(Row)]
        schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in names])
        with replacing(out / "manifest.parquet") as file:
            parquet.write_table(pyarrow.Table.from_pylist(records, schema), file)


def with_earlier(sources: Iterable[str], earlier: Iterable[Row]) -> list[Row]:
    """The rows of earlier starts, and a new one for each other source, with a folder of its own.

    The folder is named as `infer` would name it, with a number added if the name is taken.
    """
    known = {row.source: row for row in earlier}
    taken = {row.path for row in known.values()}
    for source in sources:
        if source not in known:
            # Without leading dots: those names are the job's own.
            name = default_out(source.rstrip("/")).name.lstrip(".") or "run"
            path, number = name, 1
            while path in taken or path in RESERVED:
                number += 1
                path = fitting_name("", name, f"-{number}")
            taken.add(path)
            known[source] = Row(source, path)
    return list(known.values())
