"""Reads the pickle of a PyTorch checkpoint without executing anything.

A pickle is a program for a stack machine. This machine knows only the opcodes that data needs, and treats globals as mere names:
nothing is imported, looked up or called. A few names have a meaning (tensors, storages, ordered dictionaries). A few belong to
records that training checkpoints carry besides the weights, and become an `Inert` placeholder. Every other name is refused. Each
opcode takes constant time per item it consumes, and their number is limited, so time and memory are bounded whatever the file.
"""

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ivggt_jax.weights.tensor_file import CheckpointError, fits_array

_SIZE_LIMIT = 16 * 2**20
_OPCODE_LIMIT = 1_000_000
_RANK_LIMIT = 32

_INERT_GLOBALS = frozenset(
    f"{module}.{name}"
    for modules, names in (
        (("builtins", "__builtin__"), ("dict", "float", "int", "list", "long", "set", "str")),
        (("pathlib", "pathlib._local"), ("PosixPath", "WindowsPath")),
        (("numpy.core.multiarray", "numpy._core.multiarray"), ("scalar", "_reconstruct")),
        (("torch",), ("device", "bool", "uint8", "int8", "int16", "int32", "int64")),
        (("torch",), ("float16", "bfloat16", "float32", "float64")),
        (("omegaconf.dictconfig",), ("DictConfig",)),
        (("omegaconf.listconfig",), ("ListConfig",)),
        (("omegaconf.base",), ("ContainerMetadata", "Metadata")),
        (("omegaconf.nodes",), ("AnyNode",)),
        (("numpy",), ("dtype", "ndarray")),
        (("argparse",), ("Namespace",)),
        (("collections",), ("Counter", "defaultdict")),
        (("typing",), ("Any",)),
        (("_codecs",), ("encode",)),
    )
    for module in modules
    for name in names
)
"""Globals in training checkpoints besides the weights: arguments, paths, NumPy scalars, settings."""
_STORAGES = frozenset(
    f"torch.{kind}Storage"
    for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
)


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle refers to, such as torch.FloatStorage."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """`count` elements of the storage type `kind`, in the member data/`key` of the archive."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A strided view of a storage: offset and strides in elements, all of them inside the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Inert:
    """Placeholder for a record that is not needed; ignores whatever the pickle puts into it."""

    __slots__ = ()


INERT = Inert()
_MARK = object()


def read_pickle(data: bytes) -> object:
    """Run the pickle of a PyTorch checkpoint.

    Returns its content: dictionaries, lists, tuples, numbers, strings, `Tensor` and `Inert`. Raises CheckpointError, with a
    message to follow the file's name, for an unknown global, an opcode that data does not need, a tensor outside its storage, a
    damaged pickle, or one beyond the limits.
    """
    if len(data) > _SIZE_LIMIT:
        raise CheckpointError(f"has a pickle of {len(data)} bytes; a checkpoint's is at most {_SIZE_LIMIT}")
    return _Machine().run(data)


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, object] = {}

    def run(self, data: bytes) -> object:
        position = 0
        try:
            for count, (opcode, argument, at) in enumerate(pickletools.genops(io.BytesIO(data))):
                position = at or 0
                if count > _OPCODE_LIMIT:
                    raise CheckpointError(f"has a pickle of more than {_OPCODE_LIMIT} instructions")
                if opcode.name == "STOP":
                    return self.stack.pop()
                if opcode.name in _NUMBERS or opcode.name in _STRINGS:
                    # Longer integers, such as the state of NumPy's random generators, belong to records, and computing with
                    # them could take long.
                    long = isinstance(argument, int) and argument.bit_length() > 64
                    self.stack.append(INERT if long else argument)
                    continue
                action = _ACTIONS.get(opcode.name)
                if action is None:
                    raise CheckpointError(f"has a pickle instruction that weights do not need: {opcode.name}")
                action(self, argument)
        except CheckpointError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            detail = f"byte {position}: {type(error).__name__}: {error}"
            raise CheckpointError(f"has a damaged pickle ({detail}); copy or download it again") from None
        raise CheckpointError("has a pickle without an end; copy or download it again")

    def pop_to_mark(self) -> list[Any]:
        """Pop everything above the last mark."""
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("no mark")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def discard_to_mark(self) -> None:
        self.pop_to_mark()
        self.stack.append(INERT)

    def pop_tuple(self, size: int) -> None:
        items = tuple(self.stack[-size:])
        if len(items) != size or _MARK in items:
            raise ValueError("stack underflow")
        self.stack[-size:] = [items]

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if target is INERT:
            return
        if not isinstance(target, dict) or len(pairs) % 2:
            raise ValueError(f"items for a {type(target).__name__}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # A state dictionary's keys are strings. Other entries are dropped: hashing a nested tuple, or numbers chosen to
            # collide, can take exponential or quadratic time.
            if isinstance(key, str):
                target[key] = value

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if target is INERT:
            return
        if not isinstance(target, list):
            raise ValueError(f"elements for a {type(target).__name__}")
        target.extend(items)

    def push_global(self, name: str) -> None:
        if name in _STORAGES or name in _CALLS:
            self.stack.append(Global(name))
        elif name in _INERT_GLOBALS:
            self.stack.append(INERT)
        else:
            raise CheckpointError(
                f"refers to {name}, which is not on the list of what weights need, so it is refused; nothing was run. "
                'Save the weights alone: torch.save(model.state_dict(), "weights.pth")'
            )

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function is INERT:
            self.stack.append(INERT)
            return
        if not isinstance(function, Global) or function.name not in _CALLS or not isinstance(arguments, tuple):
            raise ValueError(f"call of a {type(function).__name__}")
        self.stack.append(_CALLS[function.name](*arguments))

    def push_storage(self) -> None:
        identifier = self.stack.pop()
        if not isinstance(identifier, tuple) or len(identifier) != 5 or identifier[0] != "storage":
            raise ValueError("a persistent id that is not a storage")
        _, kind, key, _, count = identifier
        if not isinstance(kind, Global) or kind.name not in _STORAGES:
            raise ValueError("storage type")
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError("storage key or size")
        self.stack.append(Storage(kind.name, key, count))

    def build(self) -> None:
        """Drop the state given to the object below it, which is inert, or attributes of a dictionary."""
        self.stack.pop()
        if not (self.stack[-1] is INERT or isinstance(self.stack[-1], dict)):
            raise ValueError(f"state for a {type(self.stack[-1]).__name__}")


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    for sizes in (shape, strides):
        if not isinstance(sizes, tuple) or len(sizes) != len(shape) or len(sizes) > _RANK_LIMIT:
            raise ValueError("shape or strides of a tensor")
        if any(type(size) is not int for size in sizes):
            raise ValueError("shape or strides of a tensor")
    if type(offset) is not int or offset < 0 or min(shape, default=0) < 0 or not fits_array(shape):
        raise CheckpointError(f"has a tensor of shape {shape} at offset {offset}: damaged or hostile")
    if min(strides, default=0) < 0:
        raise CheckpointError(f"has a tensor with negative strides {strides}: damaged or hostile")
    elements = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # A view with zero strides can describe any number of elements in a few bytes.
    if elements > storage.count or (elements and last >= storage.count):
        raise CheckpointError(
            f"has a tensor past the end of its storage: shape {shape}, strides {strides}, offset {offset} "
            f"in {storage.count} elements"
        )
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, requires_grad: Any, hooks: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError("a parameter without a tensor")
    return tensor


def _make_size(sizes: Any) -> tuple[Any, ...]:
    if not isinstance(sizes, tuple):
        raise ValueError("a size that is no tuple")
    return sizes


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _make_size,
    "collections.OrderedDict": lambda: {},
}
_NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"})
_STRINGS = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"})


def _push(value: object) -> Callable[[_Machine, object], None]:
    return lambda machine, _: machine.stack.append(value)


def _store(machine: _Machine, slot: object) -> None:
    machine.memo[len(machine.memo) if slot is None else slot] = machine.stack[-1]  # type: ignore[index]


def _push_named_by_stack(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a global without a name")
    machine.push_global(f"{module}.{name}")


_ACTIONS: dict[str, Callable[[_Machine, object], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _push(_MARK),
    "NONE": _push(None),
    "NEWTRUE": _push(True),
    "NEWFALSE": _push(False),
    "EMPTY_TUPLE": _push(()),
    "EMPTY_SET": _push(INERT),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "BINPUT": _store,
    "LONG_BINPUT": _store,
    "MEMOIZE": _store,
    "BINGET": lambda machine, slot: machine.stack.append(machine.memo[slot]),  # type: ignore[index]
    "LONG_BINGET": lambda machine, slot: machine.stack.append(machine.memo[slot]),  # type: ignore[index]
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.pop_tuple(1),
    "TUPLE2": lambda machine, _: machine.pop_tuple(2),
    "TUPLE3": lambda machine, _: machine.pop_tuple(3),
    "FROZENSET": lambda machine, _: machine.discard_to_mark(),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, name: machine.push_global(str(name).replace(" ", ".")),
    "STACK_GLOBAL": lambda machine, _: _push_named_by_stack(machine),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.push_storage(),
}
