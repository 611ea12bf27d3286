"""Resuming: everything that a stopped run needs to continue, in one file of its output folder.

`unfinished.safetensors` exists from the start of a run to its end. At first it holds only the options. Periodically, and when the
run is stopped, the stream's state and what the writers need besides their files are added. It is replaced atomically, so a kill
at any moment leaves a complete one. Whatever the writers wrote after it is cut off on resuming.
"""

import dataclasses
import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax.config import CacheConfig
from ivggt_jax.disk.beside import part_of, written_beside
from ivggt_jax.disk.strict_json import parse_json
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.model.parameters import Model, flatten
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import init_stream
from ivggt_jax.weights.tensor_file import CheckpointError, open_safetensors, write_safetensors
from ivggt_jax.writers.files import naming
from ivggt_jax.writers.run_json import plain, recorded

STATE_FILE = "unfinished.safetensors"
RECORD = "record"
"""Name of the tensor with the rest, as JSON."""
SAMPLED = 64
"""Number of values per parameter by which checkpoints are told apart."""


@dataclass(frozen=True)
class Unfinished:
    """The saved state of a run that has not ended."""

    options: dict[str, Any]
    """Options that decide what it writes."""
    frames: int = 0
    """Number of frames finished when this was saved; 0: only the options are saved."""
    next_index: int = 0
    """Least `Frame.index` of the next frame."""
    skipped: dict[str, Any] = field(default_factory=lambda: {"count": 0, "names": []})
    """Unreadable frames left out so far."""
    last_skipped: int = -1
    """Index of the last one, counting pictures (`Source.last_skipped`)."""
    stream: dict[str, Any] = field(default_factory=dict)
    """The stream's cache configuration, size and heads."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """The stream's state as "stream/…", the writers' as "writers/…"; memory-mapped if it comes from a file."""

    @property
    def writers(self) -> dict[str, np.ndarray]:
        """The writers' arrays, copied out of the file."""
        return {
            name.removeprefix("writers/"): np.array(array)
            for name, array in self.arrays.items()
            if name.startswith("writers/")
        }

    def release(self) -> None:
        """Release the arrays, and with them the file's disk space once another file has replaced it."""
        self.arrays.clear()


def begin(out: Path, options: dict[str, Any]) -> None:
    """Mark the folder as that of an unfinished run. Raises WriteError when the disk is full."""
    _write(out, Unfinished(options), {})


def save_state(out: Path, unfinished: Unfinished, state: StreamState, writers: Mapping[str, np.ndarray]) -> None:
    """Replace the saved state by the current one, one array on the host at a time. Raises WriteError when it cannot."""
    settings = state.settings
    stream = {
        "cache": dataclasses.asdict(settings.cache),
        "height": settings.height,
        "width": settings.width,
        "heads": settings.heads,
        "submaps": dataclasses.asdict(settings.submaps) if settings.submaps else None,
        "focal": None if state.focal is None else np.asarray(state.focal.length).tolist(),
    }
    leaves = {f"stream/{name}": leaf for name, leaf in _named_leaves(state).items()}
    arrays = {f"writers/{name}": array for name, array in writers.items()}
    _write(out, dataclasses.replace(unfinished, stream=stream), {**leaves, **arrays})


def read_state(out: Path) -> Unfinished | None:
    """The saved state of an unfinished run in the folder; None if there is none.

    Raises CheckpointError when the file is damaged.
    """
    path = out / STATE_FILE
    if not os.path.lexists(path):
        return None
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        tensors = open_safetensors(path)
        record = parse_json(tensors.pop(RECORD).tobytes(), "its record")
        _check(record)
        return Unfinished(**record, arrays=tensors)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}, the state of a stopped run, is damaged: begin again with --overwrite ({error})"
        ) from None


def restore_stream(
    model: Model, unfinished: Unfinished, query_points: Callable[[int, int], np.ndarray | None]
) -> StreamState:
    """The stream as saved; `query_points` returns the tracks' query points for frames of a height and width.

    Raises CheckpointError when it does not fit the model.
    """
    try:
        stream = dict(unfinished.stream)
        cache = CacheConfig(**stream.pop("cache"))
        submaps = SubmapConfig(**found) if (found := stream.pop("submaps", None)) else None
        focal = np.array(found, np.float32) if (found := stream.pop("focal", None)) else None
        points = query_points(stream["height"], stream["width"])
        wanted = jax.eval_shape(
            lambda: init_stream(model, cache, query_points=points, submaps=submaps, focal=focal, **stream)
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the saved stream cannot be restored: begin again with --overwrite ({error})") from None
    leaves = []
    for name, leaf in _named_leaves(wanted).items():
        array = unfinished.arrays.get(f"stream/{name}")
        if array is None or (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise CheckpointError(
                f"the saved {name} is {found} where this model on this device needs {leaf.dtype} {list(leaf.shape)}: "
                "resume with the same release, --checkpoint and --precision"
            )
        leaves.append(jnp.array(array))  # a copy, because the state is donated and the file's pages are read-only
    return jax.tree.unflatten(jax.tree.structure(wanted), leaves)


def finish(out: Path) -> None:
    """The run has ended: remove the saved state."""
    for path in (out / STATE_FILE, part_of(out / STATE_FILE)):
        path.unlink(missing_ok=True)


def weights_fingerprint(model: Model) -> int:
    """A checksum over the first values of every parameter, to detect different weights.

    Of weights in a mapped file, only the pages with these values are read.
    """
    samples = [_first_values(x).tobytes() for _, x in sorted(flatten(model.params).items())]
    return zlib.crc32(b"".join(samples))


def _first_values(parameter: jax.Array) -> np.ndarray:
    """The first 64 values in C order: from a view if the host can have one, else from a copy made on the device."""
    if parameter.devices() <= set(jax.local_devices(backend="cpu")):
        return np.asarray(parameter).reshape(-1)[:SAMPLED]
    return np.asarray(parameter.ravel()[:SAMPLED])


def _check(record: dict[str, Any]) -> None:
    """Raises ValueError when the fields of an `Unfinished` have wrong types or values."""
    known = {field.name: field.type for field in dataclasses.fields(Unfinished) if field.name != "arrays"}
    if record.keys() != known.keys():
        raise ValueError(f"its record has {', '.join(record) or 'nothing'}, not {', '.join(known)}")
    counts = [*(record[name] for name, kind in known.items() if kind is int), recorded(record, "skipped", "count")]
    names = recorded(record, "skipped", "names")
    if not (
        all(isinstance(record[name], dict) for name in ("options", "skipped", "stream"))
        and all(type(count) is int and -1 <= count < 1 << 53 for count in counts)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
    ):
        raise ValueError("its record has values of other kinds than it should")


def _write(out: Path, unfinished: Unfinished, arrays: Mapping[str, Any]) -> None:
    record = {
        field.name: getattr(unfinished, field.name)
        for field in dataclasses.fields(unfinished)
        if field.name != "arrays"
    }
    tensors = {**arrays, RECORD: np.frombuffer(json.dumps(plain(record)).encode(), np.uint8)}
    layout = {name: (tuple(x.shape), np.dtype(x.dtype)) for name, x in tensors.items()}
    path = out / STATE_FILE
    with naming(path):
        out.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as part:
            write_safetensors(part, layout, lambda name: np.asarray(tensors[name]))


def _named_leaves(state: StreamState) -> dict[str, Any]:
    """Arrays by their path in the state: "cache.keys", "frame", …"""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in leaves}
