"""Saving and loading: bits, types, memory, and every mismatch as one clear error."""

import dataclasses
import json
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipe import Recipe

from ivggt_jax import Model, ModelConfig
from ivggt_jax.convert.torch_writer import write_torch
from ivggt_jax.model.parameters import flatten
from ivggt_jax.weights import checkpoint, hub, loading
from ivggt_jax.weights.checkpoint import CheckpointError, Source, save
from ivggt_jax.weights.loading import load
from ivggt_jax.weights.place import TENSOR_FILE
from ivggt_jax.weights.tensor_file import ALIGNMENT, open_safetensors, write_safetensors


@pytest.fixture(scope="module")
def directory(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "tiny"
    save(tiny, path, source=Source(name="recipe", licence="a licence"))
    return path


@pytest.fixture
def copy(directory, tmp_path):
    """A copy of the checkpoint to damage."""
    path = tmp_path / "copy"
    path.mkdir()
    for file in directory.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def change(copy, **fields):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(because):
    return pytest.raises(CheckpointError, match=because)


def bits(model):
    return {path: np.asarray(x).tobytes() for path, x in flatten(model.params).items()}


def test_what_is_saved_is_loaded_to_the_bit(tiny, directory, capsys):
    loaded = load(directory, dtype=np.float32)
    assert loaded.config == tiny.config
    chex.assert_trees_all_equal_structs(loaded, tiny)
    assert bits(loaded) == bits(tiny)
    assert capsys.readouterr().err == "recipe: a licence\n"


def test_the_trunk_alone_is_cast(directory, tiny):
    for path, x in flatten(load(directory, dtype=jnp.bfloat16).params).items():
        original = np.asarray(flatten(tiny.params)[path])
        assert x.dtype == (jnp.bfloat16 if path.startswith("aggregator/") else jnp.float32), path
        np.testing.assert_array_equal(np.asarray(x), original.astype(x.dtype))


def test_bfloat16_on_disk_comes_back_in_either_type(directory, tmp_path):
    half = load(directory, dtype=jnp.bfloat16)
    save(half, tmp_path / "half")
    assert checkpoint.describe(tmp_path / "half").dtype == "bfloat16"
    assert bits(load(tmp_path / "half", dtype=jnp.bfloat16)) == bits(half)
    for path, x in flatten(load(tmp_path / "half", dtype=jnp.float32).params).items():
        assert x.dtype == jnp.float32
        np.testing.assert_array_equal(np.asarray(x), np.asarray(flatten(half.params)[path]).astype(np.float32))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a device keeps its own copy")
def test_parameters_lie_in_the_mapped_file(directory):
    """Those of whole 64-byte lines, nearly all bytes of a model, are neither read nor copied by loading."""
    loaded = flatten(load(directory, dtype=np.float32).params)
    aligned = {path: x for path, x in loaded.items() if x.nbytes % ALIGNMENT == 0}
    assert sum(x.nbytes for x in aligned.values()) > 0.98 * sum(x.nbytes for x in loaded.values())
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("model.safetensors")]
    spans = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in maps]
    for path, x in aligned.items():
        address = x.unsafe_buffer_pointer()
        assert any(start <= address < end for start, end in spans), path


def test_mapped_parameters_survive_donation_and_deletion(tiny, tmp_path):
    save(tiny, tmp_path / "gone")
    loaded = load(tmp_path / "gone", dtype=np.float32).params["camera"]["trunk"]["mlp"]
    for file in (tmp_path / "gone").iterdir():
        file.unlink()
    doubled = jax.jit(lambda params: jax.tree.map(lambda x: 2 * x, params), donate_argnums=0)(loaded)
    expected = jax.tree.map(lambda x: 2 * np.asarray(x), tiny.params["camera"]["trunk"]["mlp"])
    chex.assert_trees_all_equal(doubled, expected)


def test_description_and_origin(directory, tiny, tmp_path):
    found = checkpoint.describe(directory)
    assert (found.config, found.dtype, found.parameters) == (tiny.config, "float32", 2_302_604)
    assert found.source == loading.identify(directory) == Source(name="recipe", licence="a licence")
    save(tiny, tmp_path / "bare")
    assert loading.identify(tmp_path / "bare") == Source(name="bare")
    (tmp_path / "some.pth").write_bytes(b"x")
    assert loading.identify(tmp_path / "some.pth") == Source(name="some.pth")


def test_saving_replaces_only_checkpoints_and_only_when_told(tiny, copy, tmp_path):
    with refused(r"copy exists; choose another place or overwrite it"):
        save(tiny, copy)
    zeros = Model(tiny.config, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tiny.params))
    save(zeros, copy, overwrite=True)
    assert bits(load(copy, np.float32)) == bits(zeros)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]
    (copy / "config.json").unlink()
    with refused("not a checkpoint: it has no config.json"):
        save(tiny, copy, overwrite=True)
    assert (copy / "model.safetensors").exists()


def test_a_failed_save_leaves_what_was_there(tiny, copy, tmp_path, monkeypatch):
    before = (copy / "model.safetensors").read_bytes()
    monkeypatch.setattr(checkpoint, "write_config", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with refused("no space left to write"):
        save(tiny, copy, overwrite=True)
    assert (copy / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    (tmp_path / "file").write_text("")
    with refused("cannot be written"):
        save(tiny, tmp_path / "file" / "inside")


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        (dict(format="other"), "is not from this project"),
        (dict(version=99), "has version 99, this release reads 1"),
        (dict(source=dict(who="x")), "is incomplete"),
        (dict(source=dict(name=3)), "is incomplete or damaged"),
        (dict(source=dict(name="x", licence=["a"])), "is incomplete or damaged"),
        (dict(source="x"), "is incomplete or damaged"),
        (dict(dtype=None), "is incomplete or damaged"),
        (dict(parameters="many"), "is incomplete or damaged"),
        (dict(version=[1]), r"has version \[1\], this release reads 1"),
        (dict(format=None), "is not from this project"),
        (dict(model=3), "has no object with the model's fields"),
        (dict(model=dict(depth=10**9)), "depth is 1000000000, which no model has; at most 1,024 is read"),
        (dict(model=dict(camera_iterations=2**31)), "camera_iterations is 2147483648, which no model has"),
        (dict(model=dict(track_iterations=2**31 - 1)), "track_iterations is 2147483647, which no model has"),
        (dict(model=dict(dpt_layers=[0, 1, 2, 10**9])), "dpt_layers is .*, which no model has; at most 1,023"),
        (dict(model=dict(dpt_layers=list(range(10**5)))), "dpt_layers is .{80}, expected something like"),
        (dict(model=dict(track_radius=10**6)), "track_radius is 1000000, which no model has; at most 64"),
        (dict(model=dict(image_size=14 * 10**6)), "image_size is 14000000, which"),
        (dict(model=dict(rope_base=1e300)), r"rope_base is 1e\+300, which"),
        (dict(model=dict(width=10**39)), "width is 1"),
        (dict(model=dict(heads=2**20)), "heads is 1048576, which"),
        (dict(model=dict(mlp_ratio=2**20)), "mlp_ratio is 1048576, which"),
        (dict(model=dict(width=None)), "width is None, expected"),
        (dict(model=dict(width=[64])), r"width is \[64\], expected"),
        (dict(model=dict(dpt_channels=[4, 4, 4, "4"])), "dpt_channels is .* expected"),
        (dict(model=dict(breadth=3)), "unknown field 'breadth'; known are image_size"),
        (dict(model=dict(width="64")), "width is '64', expected something like 1024"),
        (dict(model=dict(width=True)), "width is True"),
        (dict(model=dict(width=-64)), "width is -64"),
        (dict(model=dict(dpt_layers=3)), r"dpt_layers is 3, expected something like \(4, 11, 17, 23\)"),
        (dict(model=dict(heads=0)), "config.json"),
        (dict(model=dict(width=65)), "heads 65|is not a multiple of"),
    ],
)
def test_unsound_descriptions_are_refused(copy, fields, because):
    change(copy, **fields)
    with refused(because):
        load(copy)


def test_tensors_must_be_those_of_the_configuration(copy):
    tensors = dict(open_safetensors(copy / "model.safetensors"))
    tensors = {path: np.array(x) for path, x in tensors.items()}
    first, second, *_ = tensors
    tensors["extra"] = tensors.pop(first)
    tensors[second] = np.zeros((1, 2, 3), np.float32)
    layout = {path: (x.shape, x.dtype) for path, x in tensors.items()}
    write_safetensors(copy / "model.safetensors", layout, tensors.__getitem__)
    with refused(
        rf"3 tensors do not fit config.json:\n  missing {first}\n  unexpected extra\n  {second} has shape \[1, 2, 3\]"
    ):
        load(copy)


def test_tensors_must_be_floating_point_numbers(copy):
    """Integers would be taken for weights, without their scales."""
    tensors = {name: np.array(x) for name, x in open_safetensors(copy / TENSOR_FILE).items()}
    tensors["aggregator/camera_token"] = tensors["aggregator/camera_token"].astype(np.int8)
    layout = {path: (x.shape, x.dtype) for path, x in tensors.items()}
    write_safetensors(copy / TENSOR_FILE, layout, tensors.__getitem__)
    with pytest.raises(
        CheckpointError, match=r"1 tensors are not of floating-point numbers:\s+aggregator/camera_token is int8"
    ):
        load(copy)


@pytest.mark.parametrize("dtype", ["int8", "int32", "float64", "complex64"])
def test_weights_have_no_other_type(directory, dtype):
    with pytest.raises(ValueError, match=f"weights are float32, bfloat16 or float16, not {dtype}"):
        load(directory, dtype)


def test_the_file_of_a_checkpoint_is_told_from_its_folder(directory):
    with pytest.raises(CheckpointError, match="is part of a converted checkpoint: give the folder"):
        load(directory / TENSOR_FILE)


def test_damaged_directories_are_refused(copy, tmp_path):
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:-100])
    with refused("model.safetensors is truncated: tensor"):
        load(copy)
    (copy / "model.safetensors").unlink()
    with refused("has no model.safetensors"):
        load(copy)
    (copy / "config.json").write_text("{")
    with refused("config.json is not JSON"):
        load(copy)
    (tmp_path / "empty").mkdir()
    with refused("empty is not a checkpoint: it has no config.json of this project and no file of weights"):
        load(tmp_path / "empty")
    with refused("no checkpoint 'nowhere/x.pth': no such file or directory, and not one of lch01/StreamVGGT"):
        load("nowhere/x.pth")
    with refused(r"no checkpoint 'dmeo': .* and not one of .*, demo; did you mean demo\?$"):
        load("dmeo")


def published_shapes_are_tiny(monkeypatch):
    monkeypatch.setattr(ModelConfig, "vggt_1b", classmethod(lambda cls: cls.tiny()))


def write_recipe(path):
    recipe = Recipe("tiny")
    layout = {name: (tuple(shape), np.dtype(np.float32)) for name, shape in recipe.shapes.items()}
    write = write_torch if path.suffix == ".pth" else write_safetensors
    write(path, layout, recipe.__getitem__)
    return path


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_files_under_pytorchs_names_are_loaded(tiny, tmp_path, monkeypatch, name):
    path = write_recipe(tmp_path / name)
    with refused(
        rf"{re.escape(str(path))}: \d+ tensors do not fit the model; for other shapes give `python -m convert`"
    ):
        load(path)
    published_shapes_are_tiny(monkeypatch)
    assert bits(load(path, np.float32)) == bits(tiny)


def test_a_published_name_is_downloaded_and_converted_once(tiny, tmp_path, monkeypatch, capsys):
    published_shapes_are_tiny(monkeypatch)
    monkeypatch.setenv("IVGGT_CACHE", str(tmp_path / "cache"))
    file = write_recipe(tmp_path / "checkpoints.pth")
    fetched = []

    def fetch(name):
        fetched.append(name)
        return file, Source(name=name, revision="1234", licence=hub.PUBLISHED[name].licence)

    monkeypatch.setattr(hub, "fetch", fetch)
    for _ in range(2):
        assert bits(load("lch01/StreamVGGT", np.float32)) == bits(tiny)
    assert fetched == ["lch01/StreamVGGT"]
    source = loading.identify("lch01/StreamVGGT")
    assert (source.name, source.revision, len(source.sha256)) == ("lch01/StreamVGGT", "1234", 64)
    assert capsys.readouterr().err.count("lch01/StreamVGGT: CC BY-NC-SA 4.0, non-commercial\n") == 2
    assert {path.name for path in (tmp_path / "cache").iterdir()} >= {"lch01--StreamVGGT"}
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_a_checkpoint_from_before_heads_were_named(tiny: Model, tmp_path):
    """The tensors say which heads there are; nothing says the family of networks."""
    save(tiny.only_heads(("camera", "depth")), tmp_path / "old")
    file = tmp_path / "old" / "config.json"
    content = json.loads(file.read_text())
    assert content.pop("architecture") == "vggt" and content["model"].pop("predicts") == ["camera", "depth"]
    file.write_text(json.dumps(content))
    assert load(tmp_path / "old").config == dataclasses.replace(tiny.config, predicts=("camera", "depth"))
    file.write_text(json.dumps(content | {"architecture": "dust3r"}))
    with pytest.raises(CheckpointError, match="network 'dust3r'; this release knows 'vggt'"):
        load(tmp_path / "old")
