"""PyTorch's files read without PyTorch: a real one, hand-made ones, foreign and hostile ones."""

import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from archive import Command, dictionary, nothing_runs, pickled, storage, tensor, text, write_archive
from fuzz import fuzz

from ivggt_jax.convert.torch_file import open_tensors
from ivggt_jax.weights.tensor_file import CheckpointError

REAL = Path(__file__).parent / "golden" / "torch_save.pth"
"""Written by PyTorch 2.13: a training checkpoint with optimizer and arguments, its tensors as in `EXPECTED`."""

WHOLE = np.arange(12, dtype=np.float32).reshape(3, 4)
EXPECTED = {
    "whole": WHOLE,
    "transposed": WHOLE.T,
    "part": WHOLE[1:, 1:3],
    "parameter": np.array([1.5, -2.5], np.float32),
    "scalar": np.array(3.25, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "bfloat16": np.array([1.0, -0.5, 3.140625], ml_dtypes.bfloat16),
    "float16": np.array([1.0, -0.5], np.float16),
    "float64": np.array([0.1], np.float64),
    **{name: np.array([1, 2, 100], name) for name in ("int64", "int32", "int16", "int8", "uint8")},
    "bool": np.array([True, False]),
}


def check(found):
    assert list(found) == list(EXPECTED)
    for name, x in EXPECTED.items():
        assert (found[name].shape, found[name].dtype) == (x.shape, x.dtype), name
        np.testing.assert_array_equal(found[name], x)


def refused(path, because):
    with nothing_runs(), pytest.raises(CheckpointError, match=because):
        for x in open_tensors(path).values():
            np.array(x)


def test_a_training_checkpoint_of_pytorch_is_read():
    with nothing_runs():
        found = dict(open_tensors(REAL))
    check(found)


def test_arrays_are_views_of_the_mapped_file_and_share_storages():
    found = open_tensors(REAL)
    assert not found["whole"].flags.owndata and not found["whole"].flags.writeable
    assert found["transposed"].ctypes.data == found["whole"].ctypes.data
    assert found["part"].ctypes.data == found["whole"].ctypes.data + 5 * 4


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("nesting", [(), ("model",), ("state_dict",), ("model", "state_dict")])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pytorch_writes_what_is_read(tmp_path, protocol, nesting, prefix):
    torch = pytest.importorskip("torch")
    value = {
        prefix + name: torch.from_numpy(x.astype(np.float32) if name == "bfloat16" else np.array(x))
        for name, x in EXPECTED.items()
    }
    whole = torch.from_numpy(WHOLE.copy())
    value |= {prefix + "whole": whole, prefix + "transposed": whole.T, prefix + "part": whole[1:, 1:3]}
    value[prefix + "bfloat16"] = value[prefix + "bfloat16"].bfloat16()
    for key in reversed(nesting):
        value = {key: value, "epoch": 1}
    torch.save(value, tmp_path / "x.pth", pickle_protocol=protocol)
    check(open_tensors(tmp_path / "x.pth"))


def test_a_prefix_of_some_names_stays(tmp_path):
    program = dictionary(**{"module.a": tensor((6,), (1,)), "b": tensor((6,), (1,))})
    assert list(open_tensors(write_archive(tmp_path / "x.pth", program, {"0": storage()}))) == ["module.a", "b"]


def test_safetensors_of_either_kind_are_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"module.a": WHOLE}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(open_tensors(tmp_path / "x.safetensors")["a"], WHOLE)
    (tmp_path / "x.index.json").write_text('{"weight_map": {"module.a": "x.safetensors"}}')
    np.testing.assert_array_equal(open_tensors(tmp_path / "x.index.json")["a"], WHOLE)


@pytest.mark.parametrize(
    ("content", "because"),
    [
        (b"", "empty"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", r"before version 1.6; .*torch.save\(torch.load"),
        (bytes(257) + b"ustar", r"before version 1.6"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (b"<!doctype html>", "web page"),
        (b"\x93NUMPY", "not a PyTorch checkpoint"),
        (b"PK\3\4" + bytes(100), "truncated"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, because):
    (tmp_path / "x.pth").write_bytes(content)
    refused(tmp_path / "x.pth", because)


def test_old_formats_of_pytorch_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    refused(tmp_path / "x.pth", "before version 1.6")


@pytest.mark.parametrize(
    ("program", "because"),
    [
        (b"\x80\x02N.", "holds a nonetype, not a dictionary"),
        (dictionary(student=b"}", epoch=b"K\x03"), "its keys: 'student', 'epoch'"),
        (dictionary(model=b"}"), "holds no tensors"),
        (b"\x80\x02}q\x00" + text("model") + b"h\x00s.", "holds no tensors"),
        (dictionary(a=tensor((8,), (1,), count=8)), r"the storage of 'a' \(data/0\) has 24 bytes, 32 are due"),
        (dictionary(a=tensor((6,), (1,), key="../1")), r"the storage of 'a' \(data/../1\) is missing"),
        (dictionary(a=tensor((6,), (1,), count=2**62)), "has 24 bytes"),
        (pickled(Command("true")), r"refers to (posix|nt).system"),
    ],
)
def test_archives_without_sound_tensors_are_refused(tmp_path, program, because):
    refused(write_archive(tmp_path / "x.pth", program, {"0": storage()}), f"x.pth.*{because}")


def test_other_archives_are_refused(tmp_path):
    program, storages = dictionary(a=tensor((6,), (1,))), {"0": storage()}
    np.testing.assert_array_equal(open_tensors(write_archive(tmp_path / "x.pth", program, storages))["a"], np.arange(6))
    others = {"archive/byteorder": b"big"}
    refused(write_archive(tmp_path / "x.pth", program, storages, others=others), "byte order b'big'")
    refused(write_archive(tmp_path / "x.pth", program, storages, others={"b/data.pkl": b""}), "without the data.pkl")
    refused(write_archive(tmp_path / "x.pth", program, storages, others={"archive/constants.pkl": b""}), "TorchScript")
    refused(write_archive(tmp_path / "x.pth", program, storages, compression=zipfile.ZIP_DEFLATED), "compressed member")
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme.txt", "x")
    refused(tmp_path / "x.pth", "without the data.pkl")


def test_damage_is_found_by_checksum(tmp_path):
    whole = REAL.read_bytes()
    for part, because in (
        (WHOLE.tobytes(), "the data of 'module.whole' is damaged"),
        (b"optimizer", "data.pkl differs"),
    ):
        at = whole.index(part) + 5
        (tmp_path / "x.pth").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        refused(tmp_path / "x.pth", because)


def test_random_damage_never_does_more_than_raise(tmp_path):
    """A sample of the kind of which docs/reliability.md counts a million."""
    outcomes = fuzz(tmp_path, count=10_000, seed=1)
    assert outcomes["refused"] + outcomes["read"] == 10_000
    assert min(outcomes.values()) > 100
