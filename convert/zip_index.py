"""Locates the members of an uncompressed zip file.

PyTorch stores every member uncompressed, so a member is a range of the file that can be mapped. Nothing is ever decompressed: a
compressed member, the basis of every zip bomb, is an error.
"""

import struct
from dataclasses import dataclass
from mmap import mmap

from ivggt_jax.weights.tensor_file import CheckpointError

_END = struct.Struct("<4s4H2LH")
_END_64_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MEMBER_LIMIT = 200_000
_ENCRYPTED = 1
_UNKNOWN_32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Member:
    """A stored member: bytes `start` to `start + size` of the file, and their CRC-32 (0: left out by the writer)."""

    start: int
    size: int
    crc: int


def index_zip(buffer: mmap) -> dict[str, Member]:
    """Read the directory of a mapped zip file.

    Returns the members by name. Raises CheckpointError for a file that is truncated, damaged, encrypted or compressed, with a
    message to follow the file's name.
    """
    try:
        count, position = _find_directory(buffer)
        if count > _MEMBER_LIMIT:
            raise CheckpointError(f"claims {count} members; a checkpoint has at most {_MEMBER_LIMIT}")
        members: dict[str, Member] = {}
        for _ in range(count):
            name, member, position = _read_entry(buffer, position)
            if name in members:
                raise CheckpointError(f"holds two members named {name!r}")
            members[name] = member
        return members
    except struct.error:
        raise CheckpointError("has a damaged zip directory; copy or download it again") from None


def _find_directory(buffer: mmap) -> tuple[int, int]:
    """Number of entries and offset of the central directory."""
    end = buffer.rfind(b"PK\5\6", max(0, len(buffer) - _END.size - 0xFFFF))
    if end < 0:
        raise CheckpointError("is truncated: the zip directory at its end is missing; copy or download it again")
    _, _, _, _, count, _, offset, _ = _END.unpack_from(buffer, end)
    locator = end - _END_64_LOCATOR.size
    if locator >= 0 and buffer[locator : locator + 4] == b"PK\6\7":
        _, _, end_64, _ = _END_64_LOCATOR.unpack_from(buffer, locator)
        _expect(buffer, end_64, b"PK\6\6")
        *_, count, _, offset = _END_64.unpack_from(buffer, end_64)
    return count, offset


def _read_entry(buffer: mmap, position: int) -> tuple[str, Member, int]:
    """Name and member of one directory entry, and the position of the next."""
    _expect(buffer, position, b"PK\1\2")
    fields = _ENTRY.unpack_from(buffer, position)
    flags, method, crc, packed, size = fields[3], fields[4], *fields[7:10]
    name_length, extra_length, comment_length, local = *fields[10:13], fields[16]
    position += _ENTRY.size
    name = buffer[position : position + name_length].decode("utf-8", "replace")
    extra = buffer[position + name_length : position + name_length + extra_length]
    if flags & _ENCRYPTED:
        raise CheckpointError(f"is encrypted (member {name!r}); decrypt it with the tool that made it")
    if _UNKNOWN_32 in (size, packed, local):
        size, packed, local = _read_large_sizes(extra, size, packed, local)
    if method != 0 or packed != size:
        raise CheckpointError(
            f"has a compressed member ({name!r}); PyTorch writes none: unpack it and zip it again with `zip -0 -r`"
        )
    _expect(buffer, local, b"PK\3\4")
    *_, local_name_length, local_extra_length = _LOCAL.unpack_from(buffer, local)
    start = local + _LOCAL.size + local_name_length + local_extra_length
    if start + size > len(buffer):
        raise CheckpointError(f"is truncated: member {name!r} ends at byte {start + size} of {len(buffer)}")
    return name, Member(start, size, crc), position + name_length + extra_length + comment_length


def _read_large_sizes(extra: bytes, size: int, packed: int, local: int) -> tuple[int, int, int]:
    """Read from the zip64 field, in its fixed order, those of the three values that did not fit 32 bits."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            values = iter(struct.iter_unpack("<Q", extra[position + 4 : position + 4 + length // 8 * 8]))
            wide = [next(values, (value,))[0] if value == _UNKNOWN_32 else value for value in (size, packed, local)]
            return wide[0], wide[1], wide[2]
        position += 4 + length
    return size, packed, local


def _expect(buffer: mmap, position: int, signature: bytes) -> None:
    if buffer[position : position + 4] != signature:
        raise CheckpointError(f"has a damaged zip directory (at byte {position}); copy or download it again")
