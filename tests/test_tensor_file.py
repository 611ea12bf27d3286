"""Safetensors files: the same as the library's, mapped, and hostile ones refused."""

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from archive import nothing_runs

from ivggt_jax.weights.tensor_file import ALIGNMENT, CheckpointError, open_safetensors, read_json, write_safetensors

DTYPES = ["f8", "f4", "f2", ml_dtypes.bfloat16, "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


@pytest.fixture
def tensors():
    random = np.random.default_rng(0)
    shapes = [(3, 5), (), (0, 4), (64,), (2, 3, 4)]
    return {
        f"{np.dtype(dtype)}/{i}": np.asarray(random.integers(0, 2, shape) * 3).astype(dtype)
        for dtype in DTYPES
        for i, shape in enumerate(shapes)
    }


def write(path, tensors):
    write_safetensors(path, {name: (x.shape, x.dtype) for name, x in tensors.items()}, tensors.__getitem__, {"a": "b"})
    return path


def refused(path, because):
    with nothing_runs(), pytest.raises(CheckpointError, match=because):
        open_safetensors(path)


def test_round_trip_keeps_every_bit(tmp_path, tensors):
    found = open_safetensors(write(tmp_path / "x.safetensors", tensors))
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        assert (found[name].shape, found[name].dtype) == (x.shape, x.dtype)
        assert found[name].tobytes() == x.tobytes()
        assert not found[name].flags.writeable


def test_the_library_reads_what_is_written_and_the_reverse(tmp_path, tensors):
    theirs = safetensors.numpy.load_file(write(tmp_path / "x.safetensors", tensors))
    safetensors.numpy.save_file(tensors, tmp_path / "y.safetensors")
    ours = open_safetensors(tmp_path / "y.safetensors")
    for name, x in tensors.items():
        assert theirs[name].tobytes() == ours[name].tobytes() == x.tobytes()
        assert ours[name].dtype == x.dtype


def test_tensors_of_whole_lines_are_aligned(tmp_path):
    tensors = {f"{i:02}": np.full(i, i, np.float32) for i in range(1, 65)}
    for name, x in open_safetensors(write(tmp_path / "x.safetensors", tensors)).items():
        if x.nbytes % ALIGNMENT == 0:
            assert x.ctypes.data % ALIGNMENT == 0, name


def test_views_are_written_in_order(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = open_safetensors(write(tmp_path / "x.safetensors", {"t": x.T, "part": x[:, 1:3]}))
    np.testing.assert_array_equal(found["t"], x.T)
    np.testing.assert_array_equal(found["part"], x[:, 1:3])


def test_a_layout_that_lies_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="a is float32"):
        write_safetensors(tmp_path / "x", {"a": ((2,), np.dtype("f4"))}, lambda _: np.zeros(3, np.float32))


def test_every_truncation_is_refused(tmp_path):
    whole = write(tmp_path / "x.safetensors", {"a": np.arange(6, dtype=np.float32)}).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        refused(tmp_path / "cut.safetensors", "empty|truncated")
    (tmp_path / "long.safetensors").write_bytes(whole + b"x")
    refused(tmp_path / "long.safetensors", "has 25 bytes of data where its header describes 24")


@pytest.mark.parametrize(
    ("header", "because"),
    [
        (b"not json", "not JSON"),
        (b"[]", "holds a list"),
        (b"[" * 100_000, "nested more than 64 levels"),
        (b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}, "a": 3}', "'a' stands twice"),
        (b'{"__metadata__": 3}', "__metadata__ that is more than names and texts"),
        (b'{"__metadata__": {"format": 3}}', "__metadata__ that is more than names and texts"),
        (b'{"a": 3}', "described by 3"),
        (b'{"a": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}', "dtype 'F3'; known are F64"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "no sound shape"),
        (b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "no sound shape"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}', "does not fill"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}', "no sound"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "does not fill"),
        (b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}', "no sound shape"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', "truncated: tensor 'a'"),
        (b'{"a": {"dtype": "F32", "shape": [0, 9223372036854775807, 8], "data_offsets": [0, 0]}}', "no sound shape"),
    ],
)
def test_hostile_headers_are_refused(tmp_path, header, because):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    refused(path, because)


def test_missing_and_unreadable_files_are_named(tmp_path):
    refused(tmp_path / "none.safetensors", "none.safetensors does not exist")
    (tmp_path / "folder.safetensors").mkdir()
    refused(tmp_path / "folder.safetensors", "folder.safetensors is not a file")
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors", "pipe.safetensors is not a file")
    refused(Path("/dev/zero"), "zero is not a file")
    with pytest.raises(CheckpointError, match=r"config.json does not exist"):
        read_json(tmp_path / "config.json")


def spans(path, data=24, **tensors):
    """A file of single bytes: where each tensor begins and ends."""
    header = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in tensors.items()
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


@pytest.mark.parametrize(
    ("tensors", "because"),
    [
        (dict(a=(0, 12), b=(11, 24)), "tensor 'b' begins at byte 11 of the data and overlaps"),
        (dict(a=(0, 12), b=(0, 12), c=(12, 24)), "'b' begins at byte 0 .* overlaps"),
        (dict(a=(0, 24), b=(0, 24)), "overlaps"),
        (dict(a=(0, 24), b=(4, 8)), "'b' begins at byte 4 .* overlaps"),
        (dict(a=(0, 10), b=(12, 24)), "'b' begins at byte 12 of the data and leaves a hole"),
        (dict(a=(1, 24)), "'a' begins at byte 1 .* leaves a hole"),
        (dict(a=(0, 12), b=(8, 12), c=(20, 24)), "'b' begins at byte 8 .* overlaps"),
        (dict(a=(0, 12), b=(12, 20)), "24 bytes of data where its header describes 20"),
        (dict(a=(0, 24), b=(25, 25)), "truncated|leaves a hole"),
        (dict(a=(0, 24), b=(3, 3)), "'b' begins at byte 3 .* overlaps"),
        (dict(), "24 bytes of data where its header describes 0"),
        (dict(b=(12, 30), a=(0, 12)), "truncated"),
    ],
)
def test_overlaps_and_holes_are_refused_as_the_library_refuses_them(tmp_path, tensors, because):
    path = spans(tmp_path / "x.safetensors", **tensors)
    with pytest.raises(Exception, match="."):
        safetensors.numpy.load_file(path)
    refused(path, because)


@pytest.mark.parametrize(
    "tensors",
    [
        dict(b=(12, 24), a=(0, 12)),
        dict(a=(0, 24), b=(24, 24)),
        dict(a=(0, 0), b=(0, 24), c=(24, 24)),
        dict(a=(0, 8), b=(8, 8), c=(8, 24)),
    ],
)
def test_any_order_and_empty_tensors_are_read_as_the_library_reads_them(tmp_path, tensors):
    path = spans(tmp_path / "x.safetensors", **tensors)
    found = open_safetensors(path)
    assert found.keys() == safetensors.numpy.load_file(path).keys() == tensors.keys()


def test_no_file_is_read_that_the_library_refuses(tmp_path):
    """A thousand files of up to four tensors, three quarters of them damaged in one offset or length (seed 0)."""
    random = np.random.default_rng(0)
    read = refused_by_both = 0
    for _ in range(1000):
        cuts = [0, *np.sort(random.integers(0, 25, random.integers(0, 4))).tolist(), 24]
        places = [[begin, end] for begin, end in zip(cuts, cuts[1:], strict=False)]
        if random.random() < 0.75:
            place = places[random.integers(len(places))]
            place[random.integers(2)] += random.integers(-2, 3)
            place[1] = max(place)
        tensors = {f"{i}": tuple(map(int, place)) for i, place in enumerate(places)}
        path = spans(tmp_path / "x.safetensors", **tensors)
        try:
            theirs = safetensors.numpy.load_file(path).keys()
        except Exception:
            refused(path, "x.safetensors")
            refused_by_both += 1
        else:
            assert open_safetensors(path).keys() == theirs
            read += 1
    assert min(read, refused_by_both) > 200
