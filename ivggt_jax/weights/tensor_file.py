"""Tensors on disk: safetensors files, memory-mapped for reading and written one tensor at a time.

The format is that of the safetensors library, which reads and writes the same files. Reading is implemented here because loading
without a copy needs arrays in the mapped file itself; writing, because a conversion must never hold all tensors at once.
"""

import json
import math
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ivggt_jax.disk import strict_json

ALIGNMENT = 64
"""In bytes. JAX on the CPU uses a host array in place if it starts at a multiple of this, and copies it otherwise."""

Layout = Mapping[str, tuple[tuple[int, ...], np.dtype]]
"""Shape and dtype of every tensor by name."""

_RANK_LIMIT = 32

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class CheckpointError(ValueError):
    """A file or directory that cannot be used as a checkpoint; the one-line message has the fault and the remedy."""


def list_problems(problems: list[str], limit: int = 8) -> str:
    """The first problems, a line each, and the number of further ones."""
    more = [f"… and {len(problems) - limit} more"] if len(problems) > limit else []
    return "".join(f"\n  {line}" for line in problems[:limit] + more)


def map_file(path: Path) -> mmap.mmap:
    """Map a file read-only.

    Raises CheckpointError when it is missing, unreadable, empty, or a directory, a pipe or a device.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} is not a file")  # reading a pipe would wait
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CheckpointError(f"{path} is empty; copy or download it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file with one object. Raises CheckpointError, see `ivggt_jax.disk.strict_json`."""
    with _as_checkpoint_error():
        return strict_json.read_json(path)


@contextmanager
def _as_checkpoint_error() -> Iterator[None]:
    try:
        yield
    except strict_json.JsonError as error:
        raise CheckpointError(f"{error}") from None


def open_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Map the tensors of a safetensors file.

    Returns read-only arrays in the mapped file: nothing is read before it is used. Raises CheckpointError for anything but a
    complete, well-formed file; as in the safetensors library, every byte belongs to one tensor.
    """
    buffer = map_file(path)
    length = int.from_bytes(buffer[:8], "little")
    if len(buffer) < 8 or length > len(buffer) - 8:
        raise CheckpointError(f"{path} is not a safetensors file, or is truncated; copy or download it again")
    with _as_checkpoint_error():
        text = buffer[8 : 8 + min(length, strict_json.LENGTH_LIMIT + 1)]
        header = strict_json.parse_json(text, f"the header of {path}")
    _check_metadata(header.pop("__metadata__", None), path)
    start = 8 + length
    tensors: dict[str, np.ndarray] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        dtype, shape, begin, end = _parse_entry(entry, f"{path}: tensor {name!r}")
        if start + end > len(buffer):
            raise CheckpointError(
                f"{path} is truncated: tensor {name!r} ends at byte {start + end} of {len(buffer)}; "
                "copy or download it again"
            )
        spans.append((begin, end, name))
        tensors[name] = np.ndarray(shape, dtype, buffer=buffer, offset=start + begin)
    _check_coverage(sorted(spans), len(buffer) - start, path)
    return tensors


def _check_metadata(metadata: object, path: Path) -> None:
    strings = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if metadata is not None and not strings:
        raise CheckpointError(f"the header of {path} has __metadata__ that is more than names and texts")


def _check_coverage(spans: list[tuple[int, int, str]], size: int, path: Path) -> None:
    """Raises CheckpointError unless the tensors, ordered by position, cover 0 to `size` without gaps."""
    covered = 0
    for begin, end, name in spans:
        if begin != covered:
            fault = "overlaps the one before it" if begin < covered else "leaves a hole behind the one before it"
            raise CheckpointError(f"{path}: tensor {name!r} begins at byte {begin} of the data and {fault}")
        covered = end
    if covered != size:
        raise CheckpointError(f"{path} has {size} bytes of data where its header describes {covered}")


def _parse_entry(entry: object, what: str) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Check one header entry. Returns dtype, shape and the byte range within the data."""
    if not isinstance(entry, dict):
        raise CheckpointError(f"{what} is described by {entry!r}, not an object")
    name = entry.get("dtype")
    if not isinstance(name, str) or name not in _DTYPES:
        raise CheckpointError(f"{what} has dtype {name!r}; known are {', '.join(_DTYPES)}")
    shape, offsets = _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2 or not fits_array(shape):
        raise CheckpointError(f"{what} has no sound shape or no sound data_offsets")
    dtype = _DTYPES[name]
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{what}: {name} {list(shape)} does not fill bytes {begin} to {end}")
    return dtype, shape, begin, end


def fits_array(shape: tuple[int, ...]) -> bool:
    """Whether NumPy can represent an array of this shape and any type; even an empty one may have too long sides."""
    return len(shape) <= _RANK_LIMIT and math.prod(max(size, 1) for size in shape) < 2**59


def _sizes(value: object) -> tuple[int, ...] | None:
    """A list of non-negative integers that fit 63 bits, as a tuple; None for anything else."""
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value):
        return tuple(value)
    return None


def write_safetensors(
    path: Path,
    layout: Layout,
    read: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, holding one tensor at a time.

    Args:
        path: the file to write; the caller renames it into place when it is complete.
        layout: shape and dtype of every tensor.
        read: returns the tensor with a name; called once for each, in the order of the file.
        metadata: strings for the header.

    Tensors whose size is a multiple of 64 bytes come first, so that each starts at such a multiple and JAX can use it in place.
    Raises ValueError when `read` returns another shape or dtype than in the layout.
    """
    sizes = {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in layout.items()}
    order = sorted(layout, key=lambda name: (sizes[name] % ALIGNMENT != 0, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in order:
        shape, dtype = layout[name]
        span = [offset, offset + sizes[name]]
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": span}
        offset += sizes[name]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = read(name)
            if (tensor.shape, tensor.dtype) != layout[name]:
                raise ValueError(f"{name} is {tensor.dtype} {tensor.shape}; the layout says {layout[name]}")
            file.write(as_bytes(tensor))


def as_bytes(tensor: np.ndarray) -> memoryview:
    """The tensor's bytes in C order, without a copy if it already has that layout."""
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
