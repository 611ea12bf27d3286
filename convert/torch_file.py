"""Reads PyTorch checkpoints with NumPy alone: the zip format of `torch.save`, and safetensors."""

import math
import mmap
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from ivggt_jax.convert.pickle_machine import Tensor, read_pickle
from ivggt_jax.convert.zip_index import Member, index_zip
from ivggt_jax.weights.tensor_file import CheckpointError, map_file, open_safetensors
from ivggt_jax.weights.weight_files import find_weights, read_index, shards_of

_DTYPES = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}

_PREFIX_LIMIT = 200
"""Most characters that nested dictionaries may add before a tensor's name."""
_SAVE_AGAIN = (
    "where PyTorch is installed, write it anew: "
    'torch.save(torch.load("old.pth", map_location="cpu", weights_only=True), "new.pth")'
)


def open_tensors(path: str | Path) -> Mapping[str, np.ndarray]:
    """Open the tensors of a PyTorch or safetensors file, of shards with or without an index, or of a folder of either.

    Returns a mapping of names to read-only arrays in memory-mapped files: nothing is read before it is used. Tensors in nested
    dictionaries, as in a training checkpoint, have the keys as a prefix: "model.aggregator.camera_token".

    Raises CheckpointError for anything that is not a complete checkpoint, or that refers to more than tensors and plain data.
    Nothing in the file is ever executed.
    """
    path = find_weights(Path(path))
    shards = {name: _open_one(path.parent / name) for name in shards_of(path)}
    if path.name.endswith(".json"):
        index = read_index(path)
        for name, shard in index.items():
            if name not in shards[shard]:
                raise CheckpointError(f"{path} places {name!r} in {shard}, which does not hold it")
        return Together({name: shards[shard] for name, shard in index.items()})
    found: dict[str, Mapping[str, np.ndarray]] = {}
    for shard, tensors in shards.items():
        if twice := found.keys() & tensors.keys():
            raise CheckpointError(f"{path.parent / shard} holds {min(twice)!r}, which another shard holds too")
        found.update(dict.fromkeys(tensors, tensors))
    return Together(found)


class Together(Mapping[str, np.ndarray]):
    """The tensors of several mappings, each looked up in the one that has it."""

    def __init__(self, places: Mapping[str, Mapping[str, np.ndarray]]):
        """`places` has the mapping for each name."""
        self._places = places

    def __getitem__(self, name: str) -> np.ndarray:
        return self._places[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class TorchTensors(Mapping[str, np.ndarray]):
    """Tensors of a zip checkpoint by name, each built on access, when its storage's checksum is also verified."""

    def __init__(self, path: Path, buffer: mmap.mmap, members: Mapping[str, Member], tensors: Mapping[str, Tensor]):
        """`members` are by storage key. Raises CheckpointError when a storage is missing or too short."""
        self._path, self._buffer, self._members, self._tensors = path, buffer, members, tensors
        self._checked: set[str] = set()
        for name, tensor in tensors.items():
            storage = tensor.storage
            member = members.get(storage.key)
            if member is None:
                raise CheckpointError(f"{path}: the storage of {name!r} (data/{storage.key}) is missing")
            needed = storage.count * _DTYPES[storage.kind].itemsize
            if needed > member.size:
                raise CheckpointError(
                    f"{path}: the storage of {name!r} (data/{storage.key}) has {member.size} bytes, {needed} are due"
                )

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor as a view of the file. Raises CheckpointError when its storage is damaged."""
        tensor = self._tensors[name]
        member = self._members[tensor.storage.key]
        if tensor.storage.key not in self._checked:
            self._check(name, member)
            self._checked.add(tensor.storage.key)
        dtype = _DTYPES[tensor.storage.kind]
        if math.prod(tensor.shape) == 0:
            return np.empty(tensor.shape, dtype)
        start = member.start + tensor.offset * dtype.itemsize
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
        return np.ndarray(tensor.shape, dtype, buffer=self._buffer, offset=start, strides=strides)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _check(self, name: str, member: Member) -> None:
        # A writer that leaves checksums out writes zero.
        with memoryview(self._buffer) as view, view[member.start : member.start + member.size] as data:
            if member.crc and zlib.crc32(data) != member.crc:
                raise CheckpointError(f"{self._path}: the data of {name!r} is damaged; copy or download the file again")


def _open_one(path: Path) -> Mapping[str, np.ndarray]:
    """Open a file by its content, because `.bin` is used for both formats."""
    buffer = map_file(path)
    if path.suffix == ".safetensors" or buffer[8:9] == b"{":
        return open_safetensors(path)
    _refuse_other_formats(path, buffer)
    try:
        members = index_zip(buffer)
        folder = _archive_folder(members)
        order = _read(buffer, members, f"{folder}byteorder")
        if order not in (b"little", None):
            raise CheckpointError(f"has byte order {order!r}, not little; {_SAVE_AGAIN} on a little-endian machine")
        tensors = _find_tensors(read_pickle(_read(buffer, members, f"{folder}data.pkl") or b""))
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    prefix = f"{folder}data/"
    storages = {name.removeprefix(prefix): member for name, member in members.items() if name.startswith(prefix)}
    return TorchTensors(path, buffer, storages, tensors)


def _refuse_other_formats(path: Path, buffer: mmap.mmap) -> None:
    """Raise for a file that does not begin like a zip, explaining what it is and what to do."""
    if buffer[:4] == b"PK\3\4":
        return
    if buffer[:2] == b"\x80\x02" or buffer[257:262] == b"ustar":
        raise CheckpointError(f"{path} is in PyTorch's format from before version 1.6; {_SAVE_AGAIN}")
    if buffer[:7] == b"version":
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    if buffer[:1] == b"<":
        raise CheckpointError(f"{path} is a web page, not a checkpoint: the download needs a login or another address")
    raise CheckpointError(
        f"{path} is not a PyTorch checkpoint (it begins with {buffer[:8]!r}, not with a zip's signature)"
    )


def _archive_folder(members: Mapping[str, Member]) -> str:
    """The folder, with its slash, that everything in the archive is in: the file's name when it was saved, or "archive/"."""
    folders = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(folders) != 1:
        raise CheckpointError("is a zip file without the data.pkl of a PyTorch checkpoint")
    if f"{folders[0]}constants.pkl" in members:
        raise CheckpointError("is a TorchScript program, not a checkpoint; save the weights alone with torch.save")
    return folders[0]


def _read(buffer: mmap.mmap, members: Mapping[str, Member], name: str) -> bytes | None:
    member = members.get(name)
    if member is None:
        return None
    data = buffer[member.start : member.start + member.size]
    if member.crc and zlib.crc32(data) != member.crc:
        raise CheckpointError(f"is damaged: the checksum of {name} differs; copy or download it again")
    return data


def _find_tensors(root: object) -> dict[str, Tensor]:
    """All tensors in nested dictionaries; a name is the path of keys joined by dots."""
    if not isinstance(root, dict):
        raise CheckpointError(f"holds a {type(root).__name__.lower()}, not a dictionary of tensors")
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, dict[str, object]]] = [("", root)]
    while waiting:
        prefix, level = waiting.pop()
        # A pickle of a few bytes can nest a dictionary in itself, or twice at each of many levels, and make names of any
        # length.
        if id(level) in seen or len(prefix) > _PREFIX_LIMIT:
            continue
        seen.add(id(level))
        for key, value in level.items():
            name = prefix + key
            if isinstance(value, dict):
                waiting.append((f"{name}.", value))
            elif isinstance(value, Tensor):
                if name in tensors:
                    raise CheckpointError(f"holds two tensors that are called {name!r}")
                tensors[name] = value
    if not tensors:
        keys = ", ".join(repr(key) for key in list(root)[:8]) or "none"
        raise CheckpointError(f"holds no tensors (its keys: {keys})")
    return tensors
