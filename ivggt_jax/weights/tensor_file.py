"""Tensors on disk: safetensors files, mapped into memory to read and written one tensor at a time.

The format is that of the safetensors library, which writes and reads the same files. It is read here because a load
without a second copy needs arrays that lie in the mapped file itself, and written here because a conversion must never
hold all tensors at once.
"""

import json
import math
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

ALIGNMENT = 64
"""Bytes. JAX on the CPU uses a host array in place when it starts at a multiple of this, and copies it otherwise."""

Layout = Mapping[str, tuple[tuple[int, ...], np.dtype]]
"""Shape and dtype of every tensor by name."""

_HEADER_LIMIT = 16 * 2**20
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
    """A file or directory that cannot be used as a checkpoint, in one line that says what is wrong and the way out."""


def list_problems(problems: list[str], limit: int = 8) -> str:
    """The first of many problems, a line each, and how many more there are."""
    more = [f"… and {len(problems) - limit} more"] if len(problems) > limit else []
    return "".join(f"\n  {line}" for line in problems[:limit] + more)


def map_file(path: Path) -> mmap.mmap:
    """Map a file read-only.

    Raises CheckpointError when it is missing, not readable, a directory or empty.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CheckpointError(f"{path} is empty; copy or download it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None


def read_json(path: Path) -> dict:
    """Read a JSON file that holds one object, at most 16 MiB long.

    Raises CheckpointError when it is missing, too long, or holds anything else.
    """
    return parse_json(map_file(path)[: _HEADER_LIMIT + 1], f"{path}")


def parse_json(text: bytes, what: str) -> dict:
    """Parse one JSON object; `what` names the place in the CheckpointError raised when it is not one."""
    if len(text) > _HEADER_LIMIT:
        raise CheckpointError(f"{what} is longer than {_HEADER_LIMIT >> 20} MiB: not a checkpoint's")
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} holds a {type(value).__name__}, not an object")
    return value


def open_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Map the tensors of a safetensors file, or of all shards that a `*.index.json` names.

    Returns read-only arrays that lie in the file: nothing is read before they are used.
    Raises CheckpointError for anything that is not a whole, well-formed file.
    """
    if path.suffix != ".json":
        return _open_one(path)
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{path} has no weight_map: not the index of a sharded safetensors file")
    shards: dict[str, dict[str, np.ndarray]] = {}
    tensors = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{path} places {name!r} in {shard!r}, which is not the name of a file beside it")
        if shard not in shards:
            shards[shard] = _open_one(path.parent / shard)
        if name not in shards[shard]:
            raise CheckpointError(f"{path} places {name!r} in {shard}, which does not hold it")
        tensors[name] = shards[shard][name]
    return tensors


def _open_one(path: Path) -> dict[str, np.ndarray]:
    buffer = map_file(path)
    length = int.from_bytes(buffer[:8], "little")
    if len(buffer) < 8 or length > len(buffer) - 8:
        raise CheckpointError(f"{path} is not a safetensors file, or is truncated; copy or download it again")
    header = parse_json(buffer[8 : 8 + min(length, _HEADER_LIMIT + 1)], f"the header of {path}")
    header.pop("__metadata__", None)
    start = 8 + length
    expected = start
    tensors = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _parse_entry(entry, f"{path}: tensor {name!r}")
        if start + end > len(buffer):
            raise CheckpointError(
                f"{path} is truncated: tensor {name!r} ends at byte {start + end} of {len(buffer)}; "
                "copy or download it again"
            )
        expected += end - begin
        tensors[name] = np.ndarray(shape, dtype, buffer=buffer, offset=start + begin)
    if expected != len(buffer):
        raise CheckpointError(f"{path} has {len(buffer)} bytes where its header describes {expected}")
    return tensors


def _parse_entry(entry: object, what: str) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Check one header entry; returns dtype, shape and the byte range inside the data."""
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
    """Whether an array of this shape and any type can be described, also an empty one with other sides long."""
    return len(shape) <= _RANK_LIMIT and math.prod(max(size, 1) for size in shape) < 2**59


def _sizes(value: object) -> tuple[int, ...] | None:
    """A list of non-negative integers that fit 63 bits as a tuple, None for anything else."""
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
        path: the file to write; the caller renames it into place when it is whole.
        layout: shape and dtype of every tensor.
        read: gives the tensor of a name; called once each, in the order of the file.
        metadata: strings for the header.

    Tensors whose size is a multiple of 64 bytes come first, so that each of them starts at one and JAX can use it in
    place. Raises ValueError when `read` gives another shape or dtype than the layout says.
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
    """The tensor's bytes in C order, without a copy where it already lies so."""
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
