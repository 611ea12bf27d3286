"""Hostile pickles: nothing is executed, everything is bounded, every refusal says why."""

import pickle
import tracemalloc
from collections import Counter

import pytest
from archive import Command, dictionary, nothing_runs, number, numbers, pickled, tensor, text

from ivggt_jax.convert.pickle_machine import INERT, Storage, Tensor, read_pickle
from ivggt_jax.weights.tensor_file import CheckpointError


def refused(program: bytes, because: str) -> None:
    with nothing_runs(), pytest.raises(CheckpointError, match=because):
        read_pickle(program)


def test_plain_data_comes_back_as_pickled():
    value = {"a": [1, 2.5, "x", None, True, False, (1, 2, 3, 4), -(2**40)], "b": {"c": "ö"}, "empty": [{}, [], ()]}
    for protocol in (2, 3, 4, 5):
        with nothing_runs():
            assert read_pickle(pickle.dumps(value, protocol)) == value


def test_tensors_are_described_not_made():
    with nothing_runs():
        found = read_pickle(dictionary(w=tensor((2, 3), (3, 1)), t=tensor((3, 2), (1, 3))))
    whole = Storage("torch.FloatStorage", "0", 6)
    assert found == {"w": Tensor(whole, 0, (2, 3), (3, 1)), "t": Tensor(whole, 0, (3, 2), (1, 3))}


def test_command_is_refused_by_name_and_not_run(tmp_path):
    witness = tmp_path / "witness"
    program = pickled({"model": Command(f"touch {witness}")})
    refused(program, r"(posix|nt)\.system.*refused; nothing was run")
    assert not witness.exists()


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "builtins.getattr", "numpy.testing._private.utils.runstring", "torch.load",
     "torch.storage._load_from_bytes", "torch.utils.data.DataLoader", "pathlib.Path.unlink", "collections.namedtuple"],
)  # fmt: skip
def test_globals_outside_the_list_are_refused_by_name(name):
    module, _, attribute = name.rpartition(".")
    for program in (
        b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + text("x") + b"\x85R.",
        b"\x80\x04" + text(module) + text(attribute) + b"\x93" + text("x") + b"\x85R.",
        dictionary(a=b"c" + f"{module}\n{attribute}\n".encode()),
    ):
        refused(program, rf"refers to {name}, which is not on the list")


@pytest.mark.parametrize(("opcode", "name"), [(b"i", "INST"), (b"\x82\x01", "EXT1"), (b"\x97", "NEXT_BUFFER")])
def test_instructions_that_data_does_not_need_are_refused(opcode, name):
    refused(b"\x80\x02(" + opcode + b"os\nsystem\n.", name)


def test_records_beside_the_weights_are_inert():
    namespace = b"cargparse\nNamespace\n)\x81}" + text("lr") + number(3) + b"sb"
    path = b"cpathlib\nPosixPath\n" + text("/etc") + b"\x85R"
    with nothing_runs():
        assert read_pickle(dictionary(args=namespace, path=path)) == {"args": INERT, "path": INERT}
        # What a MultiStepLR and a NumPy generator keep.
        milestones = pickle.dumps({"milestones": Counter([30, 60]), "last_epoch": 3}, 2)
        assert read_pickle(milestones) == {"milestones": INERT, "last_epoch": 3}
        assert read_pickle(pickle.dumps({"state": 2**127, "inc": 1}, 2)) == {"state": INERT, "inc": 1}


@pytest.mark.parametrize(
    ("values", "because"),
    [
        (dict(shape=(7,), strides=(1,)), "past the end of its storage"),
        (dict(shape=(2, 3), strides=(3, 1), offset=1), "past the end of its storage"),
        (dict(shape=(2, 3), strides=(2**40, 1)), "past the end of its storage"),
        (dict(shape=(2**20, 2**20), strides=(0, 0)), "past the end of its storage"),
        (dict(shape=(2, 3), strides=(-3, 1), offset=5), "negative strides"),
        (dict(shape=(-1, 3), strides=(3, 1)), "damaged or hostile"),
        (dict(shape=(2, 3), strides=(3, 1), offset=-1), "damaged or hostile"),
        (dict(shape=(0, 2**62, 8), strides=(1, 1, 1)), "damaged or hostile"),
        (dict(shape=(2, 3), strides=(1,)), "shape or strides"),
        (dict(shape=(1,) * 40, strides=(1,) * 40), "shape or strides"),
        (dict(shape=(1,), strides=(1,), count=-1), "storage key or size"),
        (dict(shape=(2**70,), strides=(1,)), "shape or strides"),
        (dict(shape=(1,), strides=(1,), kind="Quantized"), "torch.QuantizedStorage, which is not on the list"),
    ],
)
def test_tensors_outside_their_storage_are_refused(values, because):
    refused(dictionary(w=tensor(**values)), because)


@pytest.mark.parametrize(
    "program",
    [
        b"", b"\x80\x02", b"\x80\x02}", b"\x80\x02.", b"\x80\x02t.", b"\x80\x02(R.", b"\x80\x02h\x05.", b"\x80\x02NNR.",
        b"\x80\x02]NNs.", b"\x80\x02N(NNu.", b"\x80\x02(NNs.", b"\x80\x02)Q.", b"\x80\x02NNb.", b"\x80\x02X\xff\xff\xff\x7fab.",
        b"\x80\x02I" + b"9" * 5000 + b"\n.", b"\xff", b"\x80\x02\x85.",
        b"\x80\x02ccollections\nOrderedDict\n(]tR.", b"\x80\x02ctorch\nSize\nN\x85R.",
    ],
)  # fmt: skip
def test_damaged_programs_are_refused(program):
    refused(program, "pickle")


def test_time_is_bounded():
    """Programs that take exponential or quadratic time, or memory far beyond their size, in a naive machine."""
    nested = b"\x80\x02)" + b"".join(b"q\x00h\x00\x86" for _ in range(200))
    hashed = nested + b"q\x01}h\x01Ns."
    many_keys = b"\x80\x02}(" + b"".join(number(k * 2**44) + b"N" for k in range(20_000)) + b"u."
    far_memo = b"\x80\x02Nr\xff\xff\xff\x7f."
    copied = b"\x80\x02](" + b"N" * 100_000 + b"e\x85q\x00ccollections\nOrderedDict\n" + b"h\x00" * 100_000 + b"R."
    deep = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    with nothing_runs():
        assert read_pickle(hashed) == {}
        assert read_pickle(many_keys) == {}
        assert read_pickle(far_memo) is None
        assert len(read_pickle(deep)) == 1
    refused(copied, "damaged pickle")


def test_memory_is_bounded():
    """The most memory a byte can ask for: an empty list, or its place in the memo."""
    refused(bytes(2**24 + 1), "at most 16777216")
    tracemalloc.start()
    refused(b"\x80\x02" + b"]\x94" * 2**20, "more than 1000000 instructions")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 128 * 2**20


def test_errors_do_not_describe_nested_values():
    """Formatting a tuple that contains itself many times over would never end."""
    nested = b"\x80\x02)" + b"".join(b"q\x00h\x00\x86" for _ in range(100))
    refused(nested + b"NR.", "call of a tuple")
    refused(nested + b"Q.", "persistent id")
    refused(nested + b"(NNu.", "items for a tuple")
    refused(b"\x80\x02ctorch._utils\n_rebuild_parameter\n" + nested[2:] + b"NN\x87R.", "parameter without a tensor")
    refused(b"\x80\x02ctorch.Size\n" + nested[2:] + b"R.", "pickle")
    refused(b"\x80\x02" + numbers((1, 2)) + b"\x85" + numbers((1, 2)) + b"R.", "call of a tuple")
