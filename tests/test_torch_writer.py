"""PyTorch's zip format as written here: PyTorch opens it, and so does the reader, and the layout is the documented one."""

import zipfile

import ml_dtypes
import numpy as np
import pytest

from ivggt_jax.convert.torch_file import open_tensors
from ivggt_jax.convert.torch_writer import write_torch

RANDOM = np.random.default_rng(0)
TENSORS = {
    "matrix": RANDOM.standard_normal((3, 5)).astype(np.float32),
    "transposed": RANDOM.standard_normal((3, 5)).astype(np.float32).T,
    "vector ö": RANDOM.standard_normal(7).astype(np.float64),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "bfloat16": RANDOM.standard_normal((2, 3)).astype(ml_dtypes.bfloat16),
    "float16": RANDOM.standard_normal((2, 3)).astype(np.float16),
    "int64": np.arange(-3, 3),
    "int32": np.arange(6, dtype=np.int32).reshape(1, 2, 3),
}


@pytest.fixture
def written(tmp_path):
    layout = {name: (x.shape, x.dtype) for name, x in TENSORS.items()}
    write_torch(tmp_path / "x.pth", layout, TENSORS.__getitem__)
    return tmp_path / "x.pth"


def test_the_reader_gives_back_every_bit(written):
    found = open_tensors(written)
    assert list(found) == list(TENSORS)
    for name, x in TENSORS.items():
        assert (found[name].shape, found[name].dtype) == (x.shape, x.dtype)
        assert found[name].tobytes() == x.tobytes()


def test_pytorch_opens_it_as_weights_only(written):
    torch = pytest.importorskip("torch")
    for mapped in (False, True):
        found = torch.load(written, weights_only=True, mmap=mapped)
        assert list(found) == list(TENSORS)
        for name, x in TENSORS.items():
            assert tuple(found[name].shape) == x.shape and found[name].is_contiguous()
            assert str(found[name].dtype) == f"torch.{x.dtype}"
            np.testing.assert_array_equal(found[name].to(torch.float64).numpy(), x.astype(np.float64))


def test_members_are_stored_aligned_and_checked(written):
    with zipfile.ZipFile(written) as archive:
        assert archive.testzip() is None
        assert [name for name in archive.namelist() if "/data/" not in name] == [
            "weights/data.pkl", "weights/byteorder", "weights/version",
        ]  # fmt: skip
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    for name, x in open_tensors(written).items():
        assert x.ctypes.data % 64 == 0 or x.size == 0, name


def test_tensors_are_asked_for_once_and_in_order(tmp_path):
    asked = []
    layout = {name: (x.shape, x.dtype) for name, x in TENSORS.items()}
    write_torch(tmp_path / "x.pth", layout, lambda name: (asked.append(name), TENSORS[name])[1])
    assert asked == list(TENSORS)


def test_a_layout_that_lies_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"a is float32 \(3,\); the layout says"):
        write_torch(tmp_path / "x.pth", {"a": ((2,), np.dtype("f4"))}, lambda _: np.zeros(3, np.float32))


def test_sizes_beyond_31_bits_are_described(tmp_path):
    """The pickle of a tensor of 2³¹ elements and more, without writing one."""
    from ivggt_jax.convert.pickle_machine import read_pickle
    from ivggt_jax.convert.torch_writer import _pickle

    found = read_pickle(_pickle({"large": ((2**16, 2**16, 3), np.dtype("f4"))}))
    assert found["large"].storage.count == 3 * 2**32
    assert found["large"].strides == (3 * 2**16, 3, 1)
