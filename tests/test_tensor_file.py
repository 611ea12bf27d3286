"""Safetensors files: the same as the library's, mapped, and hostile ones refused."""

import json

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


def test_shards_are_one_checkpoint(tmp_path, tensors):
    names = sorted(tensors)
    write(tmp_path / "1.safetensors", {name: tensors[name] for name in names[:9]})
    write(tmp_path / "2.safetensors", {name: tensors[name] for name in names[9:]})
    weight_map = {name: f"{1 + (i >= 9)}.safetensors" for i, name in enumerate(names)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert {name: x.tobytes() for name, x in open_safetensors(index).items()} == {
        name: x.tobytes() for name, x in tensors.items()
    }
    index.write_text(json.dumps({"weight_map": {"missing": "1.safetensors"}}))
    refused(index, "'missing' in 1.safetensors, which does not hold it")
    index.write_text(json.dumps({"weight_map": {"a": "../1.safetensors"}}))
    refused(index, "not the name of a file beside it")
    index.write_text(json.dumps({"weight_map": {"a": "3.safetensors"}}))
    refused(index, "3.safetensors does not exist")
    index.write_text(json.dumps({"weights": []}))
    refused(index, "no weight_map")


def test_every_truncation_is_refused(tmp_path):
    whole = write(tmp_path / "x.safetensors", {"a": np.arange(6, dtype=np.float32)}).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        refused(tmp_path / "cut.safetensors", "empty|truncated")
    (tmp_path / "long.safetensors").write_bytes(whole + b"x")
    refused(tmp_path / "long.safetensors", f"{len(whole) + 1} bytes where its header describes {len(whole)}")


@pytest.mark.parametrize(
    ("header", "because"),
    [
        (b"not json", "not JSON"),
        (b"[]", "holds a list"),
        (b"[" * 100_000, "not JSON"),
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
    refused(tmp_path / "folder.safetensors", "folder.safetensors cannot be read: Is a directory")
    with pytest.raises(CheckpointError, match=r"config.json does not exist"):
        read_json(tmp_path / "config.json")
