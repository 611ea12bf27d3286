"""Zip directories: whole, truncated, damaged, compressed, encrypted, larger than 32 bits."""

import struct
import zipfile
from pathlib import Path

import pytest
from archive import nothing_runs

from ivggt_jax.convert.zip_index import index_zip
from ivggt_jax.weights.tensor_file import CheckpointError, map_file


def write(path: Path, compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/one", b"1" * 100)
        archive.writestr("a/two", b"22")
        archive.writestr("a/empty", b"")
        archive.comment = comment
    return path


def refused(path: Path, because: str) -> None:
    with nothing_runs(), pytest.raises(CheckpointError, match=because):
        index_zip(map_file(path))


@pytest.mark.parametrize("comment", [b"", b"a comment", b"PK\5\6" * 5])
def test_members_lie_where_the_index_says(tmp_path, comment):
    buffer = map_file(write(tmp_path / "x.zip", comment=comment))
    if comment.startswith(b"PK"):
        with pytest.raises(CheckpointError, match="damaged"):
            index_zip(buffer)
        return
    members = index_zip(buffer)
    assert {name: buffer[m.start : m.start + m.size] for name, m in members.items()} == {
        "a/one": b"1" * 100, "a/two": b"22", "a/empty": b"",
    }  # fmt: skip
    assert members["a/one"].crc == zipfile.ZipFile(tmp_path / "x.zip").getinfo("a/one").CRC


def test_every_truncation_is_refused(tmp_path):
    whole = write(tmp_path / "x.zip").read_bytes()
    for length in range(1, len(whole)):
        (tmp_path / "cut.zip").write_bytes(whole[:length])
        refused(tmp_path / "cut.zip", "truncated|damaged")


def test_zip_bombs_are_refused_unopened(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**24))
    refused(tmp_path / "bomb.zip", r"compressed member \('archive/data.pkl'\).*zip -0")


def test_encrypted_members_are_refused(tmp_path):
    whole = bytearray(write(tmp_path / "x.zip").read_bytes())
    entry = whole.index(b"PK\1\2")
    whole[entry + 8] |= 1
    (tmp_path / "x.zip").write_bytes(whole)
    refused(tmp_path / "x.zip", "encrypted")


def test_two_members_of_one_name_are_refused(tmp_path):
    whole = write(tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(whole.replace(b"a/two", b"a/one"))
    refused(tmp_path / "x.zip", "two members named 'a/one'")


def test_huge_counts_and_sizes_are_refused(tmp_path):
    whole = bytearray(write(tmp_path / "x.zip").read_bytes())
    end, entry = whole.rindex(b"PK\5\6"), whole.index(b"PK\1\2")
    for position, layout, value, because in (
        (end + 10, "<H", 0xFFFF, "damaged"),
        (end + 16, "<L", 0xFFFFFFF0, "damaged"),
        (entry + 24, "<L", 0xFFFFFFF0, "compressed"),
        (entry + 42, "<L", 0xFFFFFFF0, "damaged"),
    ):
        changed = bytearray(whole)
        struct.pack_into(layout, changed, position, value)
        (tmp_path / "y.zip").write_bytes(changed)
        refused(tmp_path / "y.zip", because)
    struct.pack_into("<2L", whole, entry + 20, 2**31, 2**31)
    (tmp_path / "y.zip").write_bytes(whole)
    refused(tmp_path / "y.zip", "truncated: member 'a/one' ends at byte")


def test_sizes_beyond_32_bits_are_read(tmp_path):
    """A sparse member of 4 GiB and one after it: sizes and offsets then stand in the zip64 fields."""
    path = tmp_path / "large.zip"
    size = 2**32 + 3
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/one", b"1")
        archive.writestr("a/two", b"22")
    whole = bytearray(path.read_bytes())
    second, entries, end = whole.index(b"PK\3\4", 1), whole.index(b"PK\1\2"), whole.rindex(b"PK\5\6")
    first_entry, second_entry = whole[entries:][: (end - entries) // 2], whole[entries:end][(end - entries) // 2 :]
    struct.pack_into("<2LHH", first_entry, 20, 0xFFFFFFFF, 0xFFFFFFFF, 5, 20)
    first_entry += struct.pack("<2H2Q", 1, 16, size, size)
    struct.pack_into("<H", second_entry, 30, 12)
    struct.pack_into("<L", second_entry, 42, 0xFFFFFFFF)
    at = second - 1 + size
    second_entry += struct.pack("<2HQ", 1, 8, at)
    directory = at + entries - second
    length = len(first_entry) + len(second_entry)
    end_64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, length, directory)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, directory + length, 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, length, 0xFFFFFFFF, 0)
    with open(path, "wb") as file:
        file.write(whole[:second])
        file.seek(at)
        file.write(whole[second:entries] + first_entry + second_entry + end_64 + locator + last)
    members = index_zip(map_file(path))
    assert members["a/one"].size == size
    assert map_file(path)[members["a/two"].start :][:2] == b"22"
    assert zipfile.ZipFile(path).read("a/two") == b"22"
    path.unlink()
