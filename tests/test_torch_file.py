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


def check(found, prefix):
    found = {name.removeprefix(prefix): x for name, x in found.items() if name.startswith(prefix)}
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
    check(found, "model.module.")


def test_arrays_are_views_of_the_mapped_file_and_share_storages():
    found = open_tensors(REAL)
    whole = found["model.module.whole"]
    assert not whole.flags.owndata and not whole.flags.writeable
    assert found["model.module.transposed"].ctypes.data == whole.ctypes.data
    assert found["model.module.part"].ctypes.data == whole.ctypes.data + 5 * 4


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
    check(open_tensors(tmp_path / "x.pth"), "".join(f"{key}." for key in nesting) + prefix)


def test_what_lies_in_dictionaries_is_named_by_the_way_to_it(tmp_path):
    inner = b"}(" + text("a") + tensor((6,), (1,)) + text("b") + b"}" + text("c") + tensor((6,), (1,)) + b"su" + b""
    program = dictionary(model=inner, a=tensor((6,), (1,)), epoch=b"K\x03")
    path = write_archive(tmp_path / "x.pth", program, {"0": storage()})
    assert set(open_tensors(path)) == {"a", "model.a", "model.b.c"}
    program = dictionary(**{"model": b"}" + text("a") + tensor((6,), (1,)) + b"s", "model.a": tensor((6,), (1,))})
    refused(write_archive(path, program, {"0": storage()}), "two tensors that are called 'model.a'")


def test_dictionaries_that_multiply_are_bounded(tmp_path):
    """In itself, twice in each of forty, and with a name of a megabyte on the way: none is followed for long."""
    held = tensor((6,), (1,))
    itself = b"\x80\x02}q\x00(" + text("a") + held + text("again") + b"h\x00u."
    assert list(open_tensors(write_archive(tmp_path / "x.pth", itself, {"0": storage()}))) == ["a"]
    doubled = b"}" + text("a") + held + b"s"
    for level in range(40):
        doubled = b"}(" + text("l") + doubled + b"q" + bytes([level]) + text("r") + b"h" + bytes([level]) + b"u"
    path = write_archive(tmp_path / "x.pth", b"\x80\x02" + doubled + b".", {"0": storage()})
    with nothing_runs():
        assert len(open_tensors(path)) == 1
    long = dictionary(a=held, **{"x" * 10**6: b"}" + text("b") + held + b"s"})
    assert list(open_tensors(write_archive(path, long, {"0": storage()}))) == ["a"]


def test_safetensors_of_either_kind_are_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"module.a": WHOLE}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(open_tensors(tmp_path / "x.safetensors")["module.a"], WHOLE)
    (tmp_path / "x.index.json").write_text('{"weight_map": {"module.a": "x.safetensors"}}')
    np.testing.assert_array_equal(open_tensors(tmp_path / "x.index.json")["module.a"], WHOLE)
    (tmp_path / "x.safetensors").rename(tmp_path / "x.bin")  # the name of either kind
    np.testing.assert_array_equal(open_tensors(tmp_path / "x.bin")["module.a"], WHOLE)


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
        (dictionary(student=b"}", epoch=b"K\x03"), "holds no tensors .its keys: 'student', 'epoch'"),
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
        (WHOLE.tobytes(), "the data of 'model.module.whole' is damaged"),
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
