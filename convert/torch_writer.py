"""Writes PyTorch's zip format, one tensor at a time, without PyTorch: `torch.load(path, weights_only=True)` opens it."""

import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from ivggt_jax.weights.tensor_file import ALIGNMENT, Layout, as_bytes

_STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
}
_FOLDER = "weights"
_LOCAL_HEADER = 30


def write_torch(
    path: Path,
    layout: Layout,
    read: Callable[[str], np.ndarray],
) -> None:
    """Write a dictionary of tensors as `torch.save` would.

    Args:
        path: the file to write; the caller renames it into place when it is complete.
        layout: shape and dtype of every tensor, in the order of the dictionary.
        read: returns the tensor with a name; called once for each, in that order.

    Raises ValueError when `read` returns another shape or dtype than in the layout.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _add(archive, "data.pkl", _pickle(layout))
        _add(archive, "byteorder", b"little")
        for key, (name, expected) in enumerate(layout.items()):
            tensor = read(name)
            if (tensor.shape, tensor.dtype) != expected:
                raise ValueError(f"{name} is {tensor.dtype} {tensor.shape}; the layout says {expected}")
            _add(archive, f"data/{key}", as_bytes(tensor))
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Append a member whose data starts at a multiple of 64 bytes, as PyTorch places it."""
    member = zipfile.ZipInfo(f"{_FOLDER}/{name}")
    begin = archive.fp.tell() + _LOCAL_HEADER + len(member.filename) + 4  # type: ignore[union-attr]
    padding = -begin % ALIGNMENT
    member.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    archive.writestr(member, data)


def _pickle(layout: Layout) -> bytes:
    """The pickle program that rebuilds the dictionary; see the standard library's pickletools for the opcodes."""
    parts = [b"\x80\x02", b"}", b"("]
    for key, (name, (shape, dtype)) in enumerate(layout.items()):
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        storage = [_text("storage"), _global("torch", _STORAGES[dtype]), _text(str(key)), _text("cpu")]
        hooks = _global("collections", "OrderedDict") + b")R"
        parts += [_text(name), _global("torch._utils", "_rebuild_tensor_v2"), b"("]
        parts += [b"(", *storage, _integer(math.prod(shape)), b"t", b"Q"]
        parts += [_integer(0), _integers(shape), _integers(strides), b"\x89", hooks, b"t", b"R"]
    return b"".join([*parts, b"u", b"."])


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x09" + value.to_bytes(9, "little")


def _integers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(_integer(value) for value in values) + b"t"
