"""Folders and shards of weights: what is chosen, what is missing, and a hash that covers all of it."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ivggt_jax.convert.command import convert_file
from ivggt_jax.convert.torch_file import open_tensors
from ivggt_jax.convert.torch_writer import write_torch
from ivggt_jax.weights.checkpoint import CheckpointError
from ivggt_jax.weights.tensor_file import write_safetensors
from ivggt_jax.weights.weight_files import choose, digest, find_weights, shards_of

TENSORS = {f"{i}": np.full(3, i, np.float32) for i in range(6)}
SHARDS = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]


def write(path, names=tuple(TENSORS)):
    writer = write_safetensors if path.suffix == ".safetensors" else write_torch
    writer(path, {name: ((3,), np.dtype("f4")) for name in names}, TENSORS.__getitem__)
    return path


@pytest.fixture
def sharded(tmp_path):
    """Three shards of two tensors, and their index."""
    for i, shard in enumerate(SHARDS):
        write(tmp_path / shard, (f"{2 * i}", f"{2 * i + 1}"))
    weight_map = {name: SHARDS[int(name) // 2] for name in TENSORS}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tmp_path


def assert_all(path):
    found = open_tensors(path)
    assert found.keys() == TENSORS.keys()
    for name, x in TENSORS.items():
        np.testing.assert_array_equal(found[name], x)


def refused(because):
    return pytest.raises(CheckpointError, match=because)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "model.pt", "README.md"], "model.safetensors"),
        (["checkpoints.pth"], "checkpoints.pth"),
        (["pytorch_model.bin", "config.json"], "pytorch_model.bin"),
        (
            ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"],
            "model.safetensors",
        ),
        (["pytorch_model.bin", "optimizer.bin", "scaler.pt", "random_states_0.pkl"], "pytorch_model.bin"),
        (["checkpoint.pt", "rng_state_0.pth"], "checkpoint.pt"),
        (["last.ckpt"], "last.ckpt"),
        ([*SHARDS], SHARDS[0]),
        ([*reversed(SHARDS)], SHARDS[0]),
        ([*SHARDS, "model.safetensors.index.json"], "model.safetensors.index.json"),
        (["a.pth", "a.pt", "model.pth"], "model.pth"),
        (["vggt_1B_commercial.pt", "LICENSE"], "vggt_1B_commercial.pt"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"], "pytorch_model-00001-of-00002.bin"),
        (["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"], "pytorch_model.bin.index.json"),
        (["model.safetensors", "other.safetensors"], "model.safetensors"),
    ],
)
def test_what_is_chosen_of_a_folder(names, chosen):
    assert choose(names, "x") == chosen


@pytest.mark.parametrize(
    ("names", "because"),
    [
        ([], "x is not a checkpoint: it has no config.json of this project and no file of weights"),
        (["README.md", "image.png", "optimizer.pt"], "no file of weights"),
        (["adapter_model.safetensors", "adapter_config.json"], "x is an adapter, such as LoRA: .*merge_and_unload"),
        (
            ["checkpoint_10.pt", "checkpoint_20.pt"],
            "several files of weights: checkpoint_10.pt, checkpoint_20.pt; give one",
        ),
        (["a.safetensors", "b.safetensors", "model.pt"], "several files of weights: a.safetensors, b.safetensors"),
        (["a-00001-of-00002.bin", "b-00001-of-00002.bin"], "several files of weights: a-00001"),
    ],
)
def test_what_cannot_be_chosen(names, because):
    with refused(because):
        choose(names, "x")


def test_shards_are_one_checkpoint_however_they_are_given(sharded):
    assert_all(sharded / "model.safetensors.index.json")
    assert_all(sharded)
    (sharded / "model.safetensors.index.json").unlink()
    assert_all(sharded)
    for shard in SHARDS:
        assert_all(sharded / shard)


def test_shards_of_pytorchs_own_format(tmp_path):
    for i in (1, 2):
        write(tmp_path / f"pytorch_model-{i:05}-of-00002.bin", [name for name in TENSORS if int(name) % 2 == i - 1])
    assert_all(tmp_path)
    weight_map = {name: f"pytorch_model-{int(name) % 2 + 1:05}-of-00002.bin" for name in TENSORS}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_all(tmp_path)


def test_an_index_with_names_of_its_own(tmp_path):
    for name, tensors in (("a", "012"), ("b", "345")):
        write(tmp_path / f"{name}.safetensors", tuple(tensors))
    weight_map = {name: f"{'a' if name < '3' else 'b'}.safetensors" for name in TENSORS}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_all(tmp_path)


def test_a_missing_shard_is_named(sharded):
    (sharded / SHARDS[1]).unlink()
    for path in (sharded, sharded / SHARDS[0], sharded / "model.safetensors.index.json"):
        with refused(f"{SHARDS[1]} does not exist"):
            open_tensors(path)
    (sharded / "model.safetensors.index.json").unlink()
    (sharded / SHARDS[0]).unlink()
    with refused(f"{SHARDS[0]} does not exist"):
        open_tensors(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded):
    (sharded / "model.safetensors.index.json").unlink()
    write(sharded / SHARDS[2], ("0", "5"))
    with refused(f"{SHARDS[2]} holds '0', which another shard holds too"):
        open_tensors(sharded)


@pytest.mark.parametrize(
    ("index", "because"),
    [
        ({"weight_map": {"missing": SHARDS[0]}}, "places 'missing' in model-00001.*, which does not hold it"),
        ({"weight_map": {"0": "../1.safetensors"}}, "not the name of a file beside it"),
        ({"weight_map": {"0": "/etc/passwd"}}, "not the name of a file beside it"),
        ({"weight_map": {"0": 3}}, "in 3, which is not the name"),
        ({"weight_map": {"0": "4.safetensors"}}, "4.safetensors does not exist"),
        ({"weight_map": {"0": ""}}, "in '', which is not the name"),
        ({"weights": []}, "no weight_map"),
        ({"weight_map": []}, "no weight_map"),
        ([], "holds a list, not an object"),
        ({"a": [[[[[[0]]]]]] * 2}, "no weight_map"),
    ],
)
def test_an_index_that_is_none(sharded, index, because):
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with refused(because):
        open_tensors(sharded)


def test_snapshots_of_the_hubs_cache(sharded, tmp_path_factory):
    """A snapshot is a folder of links to files that are named by their hashes."""
    cache = tmp_path_factory.mktemp("hub") / "models--owner--name"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "refs").mkdir()
    for i, path in enumerate(sorted(sharded.iterdir())):
        blob = cache / "blobs" / f"{i:x}"
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    (snapshot / "config.json").write_text('{"img_size": 518}')
    assert_all(snapshot)
    (cache / "refs" / "main").write_text("0123abcd")
    assert_all(cache)
    (cache / "refs" / "main").write_text("gone")
    with refused("gone is not a checkpoint"):
        open_tensors(cache)
    (cache / "blobs" / "1").unlink()
    with refused("does not exist"):
        open_tensors(snapshot)


def test_distributed_checkpoints_are_named(tmp_path):
    (tmp_path / ".metadata").write_bytes(b"x")
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with refused("is a distributed checkpoint; .* dcp_to_torch"):
        find_weights(tmp_path)


def test_the_hash_covers_every_shard(sharded):
    lines = subprocess.run(["sha256sum", *SHARDS], cwd=sharded, capture_output=True, check=True).stdout
    expected = hashlib.sha256(lines).hexdigest()
    assert digest(sharded / "model.safetensors.index.json") == digest(sharded / SHARDS[2]) == expected
    for shard in SHARDS:
        before = (sharded / shard).read_bytes()
        (sharded / shard).write_bytes(before[:-1] + b"x")
        assert digest(sharded / "model.safetensors.index.json") != expected
        (sharded / shard).write_bytes(before)
    single = write(sharded / "x.pth")
    assert digest(single) == hashlib.sha256(single.read_bytes()).hexdigest()


def test_shards_have_as_many_names_as_they_say():
    assert shards_of(Path(SHARDS[1])) == SHARDS
    assert shards_of(Path("model.safetensors")) == ["model.safetensors"]


def test_a_folder_of_weights_is_converted_and_its_origin_recorded(sharded, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "ours"
    with refused(f"{SHARDS[0][:5]}.* is not VGGT: .* consists of"):
        convert_file(sharded, out)
    assert not out.exists()
