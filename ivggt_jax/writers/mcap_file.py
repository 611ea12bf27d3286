"""MCAP files that grow by one chunk per frame and can be cut after any chunk (https://mcap.dev/spec).

After a kill only the index is missing: streaming readers accept such a recording, and `mcap recover` adds the index. Closing also
adds it, computed from the file itself, because in memory it would grow with the run.
"""

import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    Message,
    MessageIndex,
    Schema,
    Statistics,
)
from zstandard import compress

from ivggt_jax.writers.files import ResumeError, naming, replacing

MAGIC = b"\x89MCAP0\r\n"
HEAD = struct.Struct("<BQ")
"""Header of every record: its type and its length."""
CHUNK_HEAD = struct.Struct("<QQQII")
"""Times of the first and last message, size, checksum, length of the compression's name."""


@dataclass(frozen=True)
class Topic:
    """A channel with the Protobuf schema of its messages."""

    name: str
    schema: str
    definition: bytes


class McapFile:
    """A file with several topics, written frame by frame."""

    def __init__(self, path: Path, frames: int, topics: list[Topic]):
        """Keep the first `frames` frames of an existing file; 0 starts over.

        Raises ResumeError when there are fewer, WriteError when the file cannot be written.
        """
        self._path, self._topics = path, topics
        with naming(path):
            if frames:
                _cut(path, frames)
            else:
                with replacing(path) as file:
                    file.write(MAGIC + _bytes(Header("", "ivggt_jax"), *self._descriptions()))
            # Unbuffered, so that a frame reaches the system in one call and survives the process.
            self._file = path.open("ab", buffering=0)

    def append(self, nanoseconds: int, number: int, messages: Mapping[str, bytes]) -> None:
        """Append a frame with its time and number, completely or not at all; messages are by topic name."""
        channels = {topic.name: channel for channel, topic in enumerate(self._topics, 1)}
        content, indices = RecordBuilder(), []
        for name, data in messages.items():
            indices.append(MessageIndex(channels[name], [(nanoseconds, content.count)]))
            Message(channels[name], nanoseconds, data, nanoseconds, number).write(content)
        whole = content.end()
        chunk = Chunk(
            compression="zstd",
            data=compress(whole),
            message_start_time=nanoseconds,
            message_end_time=nanoseconds,
            uncompressed_crc=zlib.crc32(whole),
            uncompressed_size=len(whole),
        )
        with naming(self._path):
            size = os.fstat(self._file.fileno()).st_size
            try:
                self._write(_bytes(chunk, *indices))
            except OSError:
                self._file.truncate(size)
                raise

    def close(self) -> None:
        """Add the index and close the file."""
        with naming(self._path), self._file, self._path.open("rb") as written:
            for part in self._ending(written):
                self._write(part)

    def _write(self, data: bytes) -> None:
        """Write all of it: a disk that fills up accepts a part first and then refuses the rest."""
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

    def _descriptions(self) -> list[McapRecord]:
        return [
            *(Schema(number, t.definition, "protobuf", t.schema) for number, t in enumerate(self._topics, 1)),
            *(Channel(number, t.name, "protobuf", {}, number) for number, t in enumerate(self._topics, 1)),
        ]

    def _ending(self, written: BinaryIO) -> Iterator[bytes]:
        """What follows the frames, in pieces."""
        yield _bytes(DataEnd(0))
        begin = written.seek(0, os.SEEK_END)
        checksum = 0
        for record in self._summary(written):
            data = _bytes(record)
            checksum = zlib.crc32(data, checksum)
            yield data
        footer = _bytes(Footer(begin, 0, 0))[:-4]
        # The checksum covers the footer up to itself.
        yield footer + struct.pack("<I", zlib.crc32(footer, checksum)) + MAGIC

    def _summary(self, written: BinaryIO) -> Iterator[McapRecord]:
        yield from self._descriptions()
        counts: Counter[int] = Counter()
        earliest, latest, chunks = 2**64 - 1, 0, 0
        for index in _chunks(written):
            yield index
            counts.update(index.message_index_offsets.keys())
            chunks += 1
            earliest, latest = min(earliest, index.message_start_time), max(latest, index.message_end_time)
        yield Statistics(
            message_count=counts.total(),
            schema_count=len(self._topics),
            channel_count=len(self._topics),
            attachment_count=0,
            metadata_count=0,
            chunk_count=chunks,
            message_start_time=min(earliest, latest),
            message_end_time=latest,
            channel_message_counts=dict(counts),
        )


def _bytes(*records: McapRecord) -> bytes:
    builder = RecordBuilder()
    for record in records:
        record.write(builder)
    return builder.end()


def _cut(path: Path, frames: int) -> None:
    """Cut a file after its first `frames` chunks."""
    end, found = 0, 0
    if path.is_file():
        with path.open("rb") as file:
            for index in islice(_chunks(file), frames):
                end = index.chunk_start_offset + index.chunk_length + index.message_index_length
                found += end <= path.stat().st_size
    if found < frames:
        raise ResumeError(path, found, frames)
    os.truncate(path, end)


def _chunks(file: BinaryIO) -> Iterator[ChunkIndex]:
    """Index entries of all chunks, found by walking from record to record."""
    total, place, index = file.seek(0, os.SEEK_END), len(MAGIC), None
    if _at(file, 0, place) != MAGIC:
        return
    while place < total and len(head := _at(file, place, HEAD.size)) == HEAD.size:
        kind, length = HEAD.unpack(head)
        size = HEAD.size + length
        if index is not None and kind == Opcode.MESSAGE_INDEX:
            index.message_index_offsets[int.from_bytes(file.read(2), "little")] = place
            index.message_index_length += size
        elif index is not None:
            yield index
            index = None
        if kind == Opcode.DATA_END:
            return
        if kind == Opcode.CHUNK:
            if not CHUNK_HEAD.size <= length <= total - place:  # truncated or damaged
                return
            index = _index_of(file, place, size)
        place += size
    if index is not None:
        yield index


def _index_of(file: BinaryIO, place: int, size: int) -> ChunkIndex:
    """Index entry of the chunk whose content begins here, without its messages."""
    start, end, uncompressed, _, letters = CHUNK_HEAD.unpack(file.read(CHUNK_HEAD.size))
    return ChunkIndex(
        message_start_time=start,
        message_end_time=end,
        chunk_start_offset=place,
        chunk_length=size,
        message_index_offsets={},
        message_index_length=0,
        compression=file.read(min(letters, size)).decode(errors="replace"),
        compressed_size=int.from_bytes(file.read(8), "little"),
        uncompressed_size=uncompressed,
    )


def _at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)
