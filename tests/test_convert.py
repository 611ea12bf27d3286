"""`python -m convert` both ways: bits, types, formats, and what is left behind when it fails."""

import dataclasses
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from recipe import Recipe

from ivggt_jax import Model, ModelConfig, save
from ivggt_jax.convert.__main__ import main
from ivggt_jax.convert.assembly import ConversionError, find_mismatches, torch_shapes
from ivggt_jax.convert.command import Convert, convert_file, export_file, run
from ivggt_jax.convert.torch_file import open_tensors
from ivggt_jax.convert.torch_writer import write_torch
from ivggt_jax.model.parameters import flatten, unflatten
from ivggt_jax.weights import hub
from ivggt_jax.weights.checkpoint import CheckpointError, Source, describe
from ivggt_jax.weights.loading import load
from ivggt_jax.weights.tensor_file import open_safetensors, write_safetensors

RECIPE = Recipe("tiny")
CONFIG = ModelConfig.tiny()


def write_recipe(path, dtype=np.float32, prefix="", skip=()):
    layout = {
        prefix + name: (tuple(shape), np.dtype(dtype)) for name, shape in RECIPE.shapes.items() if name not in skip
    }
    write = write_safetensors if path.suffix == ".safetensors" else write_torch
    write(path, layout, lambda name: RECIPE[name.removeprefix(prefix)].astype(dtype))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The recipe as a .pth file, its configuration, and what the command makes of both."""
    path = tmp_path_factory.mktemp("convert")
    write_recipe(path / "tiny.pth")
    (path / "tiny.json").write_text(json.dumps(dataclasses.asdict(CONFIG)))
    assert run(Convert(str(path / "tiny.pth"), path / "ours", config=path / "tiny.json")) == 0
    return path


def assert_recipe(tensors, dtype=np.float32):
    assert tensors.keys() == RECIPE.keys()
    for name in RECIPE:
        np.testing.assert_array_equal(tensors[name], RECIPE[name].astype(dtype), err_msg=name)


def test_the_converted_model_is_the_recipes_to_the_bit(folder, tiny):
    converted = flatten(load(folder / "ours", np.float32).params)
    for path, x in flatten(tiny.params).items():
        assert np.asarray(converted[path]).tobytes() == np.asarray(x).tobytes(), path


def test_what_is_printed_and_recorded(folder, tmp_path, capsys):
    run(Convert(str(folder / "tiny.pth"), tmp_path / "ours", config=folder / "tiny.json"))
    digest = hashlib.sha256((folder / "tiny.pth").read_bytes()).hexdigest()
    assert capsys.readouterr().out == (
        f"{tmp_path / 'ours'}: 2,302,604 parameters, trunk float32, 0.01 GB\n"
        f"source: tiny.pth, sha256 {digest}\nlicence: not recorded; that of the source applies\n"
    )
    assert describe(tmp_path / "ours").source == Source(name="tiny.pth", sha256=digest)


@pytest.mark.parametrize("name", ["back.pth", "back.pt", "back.safetensors"])
def test_there_and_back_is_exact(folder, tmp_path, name):
    export_file(folder / "ours", tmp_path / name)
    assert_recipe(open_tensors(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_orbax_and_back_is_exact(folder, tmp_path):
    pytest.importorskip("orbax.checkpoint")
    convert_file(folder / "ours", tmp_path / "orbax", to="orbax")
    assert {path.name for path in (tmp_path / "orbax").iterdir()} == {"config.json", "params"}
    export_file(tmp_path / "orbax", tmp_path / "back.pth")
    assert_recipe(open_tensors(tmp_path / "back.pth"))
    assert {path.name for path in tmp_path.iterdir()} == {"orbax", "back.pth"}


def test_other_programs_read_the_orbax_checkpoint(folder, tmp_path, tiny):
    """With Orbax's own plain call. Loading it here says what to do instead."""
    orbax = pytest.importorskip("orbax.checkpoint")
    convert_file(folder / "ours", tmp_path / "orbax", to="orbax")
    with orbax.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "orbax" / "params", tiny.params)
    for path, x in flatten(restored).items():
        np.testing.assert_array_equal(x, flatten(tiny.params)[path])
    with refused(r"is stored with Orbax, for other programs: `ivggt convert \S+orbax OUTPUT`"):
        load(tmp_path / "orbax")


def test_an_orbax_checkpoint_of_another_model_is_refused(folder, tmp_path):
    pytest.importorskip("orbax.checkpoint")
    convert_file(folder / "ours", tmp_path / "orbax", to="orbax")
    config = tmp_path / "orbax" / "config.json"
    config.write_text(config.read_text().replace('"width": 64', '"width": 128'))
    for convert, name in ((convert_file, "out"), (export_file, "out.pth")):
        with refused(r"orbax: \d+ tensors do not fit config.json:\n  aggregator/camera_token has shape \[2, 1, 64\]"):
            convert(tmp_path / "orbax", tmp_path / name)


@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, np.float16])
def test_16_bits_stay_unless_asked_otherwise(folder, tmp_path, kind):
    half = write_recipe(tmp_path / "half.pth", kind)
    convert_file(half, tmp_path / "kept", config=CONFIG)
    convert_file(half, tmp_path / "wide", config=CONFIG, dtype="float32")
    for path, x in open_safetensors(tmp_path / "kept" / "model.safetensors").items():
        assert x.dtype == (kind if path.startswith("aggregator/") else np.float32), path
        wide = open_safetensors(tmp_path / "wide" / "model.safetensors")[path]
        assert wide.dtype == np.float32
        np.testing.assert_array_equal(x.astype(np.float32), wide)
    export_file(tmp_path / "kept", tmp_path / "back.pth")
    assert_recipe(open_tensors(tmp_path / "back.pth"), kind)
    name = np.dtype(kind).name
    convert_file(folder / "ours", tmp_path / "narrowed", dtype=name)
    assert describe(tmp_path / "narrowed").dtype == name


def test_float16_refuses_what_it_cannot_hold(tiny, tmp_path):
    params = flatten(tiny.params)
    params["aggregator/camera_token"] = params["aggregator/camera_token"].at[0, 0, 0].set(70_000)
    save(Model(tiny.config, unflatten(params)), tmp_path / "large")
    with refused("large: aggregator/camera_token has values that float16 cannot hold: use --dtype bfloat16"):
        convert_file(tmp_path / "large", tmp_path / "half", dtype="float16")
    assert not (tmp_path / "half").exists()


def test_prefixes_and_safetensors_and_half_precision_are_read(folder, tmp_path):
    expected = (folder / "ours" / "model.safetensors").read_bytes()
    for name in ("x.pth", "x.safetensors"):
        convert_file(write_recipe(tmp_path / name, prefix="module."), tmp_path / f"{name} ours", config=CONFIG)
        assert (tmp_path / f"{name} ours" / "model.safetensors").read_bytes() == expected
    convert_file(write_recipe(tmp_path / "h.pth", np.float16), tmp_path / "h", config=CONFIG)
    export_file(tmp_path / "h", tmp_path / "h back.safetensors")
    assert_recipe(open_tensors(tmp_path / "h back.safetensors"), np.float16)


def test_a_published_name_is_written_for_pytorch(folder, tmp_path, monkeypatch):
    """And nothing is downloaded for a place that cannot be used."""
    fetched = []

    def fetch(name):
        fetched.append(name)
        return folder / "tiny.pth", Source(name=name)

    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.setattr(ModelConfig, "vggt_1b", ModelConfig.tiny)
    monkeypatch.setenv("IVGGT_CACHE", str(tmp_path / "cache"))
    with refused("ours exists"):
        run(Convert("lch01/StreamVGGT", folder / "ours"))
    with refused("back.pth: the output is a directory"):
        run(Convert("lch01/StreamVGGT", tmp_path / "back.pth"))
    assert fetched == []
    run(Convert("lch01/StreamVGGT", tmp_path / "back.pth", to="torch"))
    assert_recipe(open_tensors(tmp_path / "back.pth"))
    assert fetched == ["lch01/StreamVGGT"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("nested", [False, True])
def test_pytorch_on_both_ends(folder, tmp_path, dtype, nested):
    """`torch.save` writes what is read, `torch.load(weights_only=True)` opens what is written, to the bit."""
    torch = pytest.importorskip("torch")
    state = {f"module.{name}": torch.from_numpy(RECIPE[name]).to(getattr(torch, dtype)) for name in RECIPE}
    torch.save({"model": state, "epoch": 3} if nested else state, tmp_path / "theirs.pth")
    convert_file(tmp_path / "theirs.pth", tmp_path / "ours", config=CONFIG)
    export_file(tmp_path / "ours", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == RECIPE.keys()
    for name, x in back.items():
        torch.testing.assert_close(x, state[f"module.{name}"], rtol=0, atol=0, check_dtype=False)


def test_all_mismatches_are_found():
    tensors = {name: RECIPE[name] for name in list(RECIPE)[3:]}
    tensors["extra"] = np.zeros(1)
    name = list(RECIPE)[5]
    tensors[name] = np.zeros((2, 1))
    problems = find_mismatches(tensors, CONFIG)
    assert problems == [
        *(f"missing {name}" for name in sorted(list(RECIPE)[:3])),
        "unexpected extra",
        f"{name} has shape [2, 1], expected {list(RECIPE[name].shape)}",
    ]
    assert str(ConversionError(problems)).count("\n") == 5
    assert torch_shapes(CONFIG) == {name: RECIPE[name].shape for name in RECIPE}


def test_the_published_shapes_are_all_there():
    full = Recipe("full")
    shapes = torch_shapes(ModelConfig.vggt_1b())
    assert shapes == {name: tuple(shape) for name, shape in full.shapes.items()}
    assert len(shapes) == 1797 and sum(int(np.prod(shape)) for shape in shapes.values()) == 1_256_537_516


def refused(because):
    return pytest.raises(CheckpointError, match=because)


def test_refusals_name_the_thing_and_the_way_out(folder, tmp_path):
    out = tmp_path / "out"
    with refused(
        r"tiny.pth: \d+ tensors do not fit the model; for other shapes give `python -m convert` their --config"
    ):
        convert_file(folder / "tiny.pth", out)
    lacking = write_recipe(tmp_path / "lacking.pth", skip=[*RECIPE][:12])
    with refused(r"12 tensors do not fit the model:(\n  missing [a-z0-9_.]+){8}\n  … and 4 more$"):
        convert_file(lacking, out, config=CONFIG)
    with refused("no checkpoint '.*nothing.pth': no such file or directory, and not one of lch01/StreamVGGT"):
        run(Convert(str(tmp_path / "nothing.pth"), out))
    with refused("tiny.pth is none of this project's checkpoint directories, which --to torch takes"):
        run(Convert(str(folder / "tiny.pth"), tmp_path / "x.pth", to="torch"))
    with refused("a file ending in .pth, .pt or .safetensors"):
        run(Convert(str(folder / "ours"), out, to="torch"))
    with refused("back.pth: the output is a directory, or with --to torch a file of that name"):
        run(Convert(str(folder / "ours"), tmp_path / "back.pth"))
    with refused("--config: .*ours is a checkpoint directory and says itself what it holds"):
        run(Convert(str(folder / "ours"), out, config=folder / "tiny.json"))
    (tmp_path / "wrong.json").write_text('{"wide": 3}')
    with refused("wrong.json: unknown field 'wide'; known are image_size, patch_size"):
        run(Convert(str(folder / "tiny.pth"), out, config=tmp_path / "wrong.json"))
    with refused("ours exists; choose another place or overwrite it"):
        run(Convert(str(folder / "tiny.pth"), folder / "ours", config=folder / "tiny.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lacking.pth", "wrong.json"]


def test_damage_leaves_nothing_behind(folder, tmp_path):
    data = bytearray((folder / "tiny.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.pth").write_bytes(data)
    with refused("is damaged; copy or download the file again"):
        convert_file(tmp_path / "damaged.pth", tmp_path / "out", config=CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.pth"]


def test_a_full_disk_leaves_nothing_behind(folder, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with refused(f"no space left to write {tmp_path / 'out'}; make room"):
            convert_file(folder / "ours", tmp_path / "out")
        with refused(f"no space left to write {tmp_path / 'out.pth'}; make room"):
            export_file(folder / "ours", tmp_path / "out.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_orbax_is_said_in_one_line(folder, tmp_path, monkeypatch):
    pytest.importorskip("orbax.checkpoint")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
    with refused(f"no space left to write {tmp_path / 'out'}; make room"):
        convert_file(folder / "ours", tmp_path / "out", to="orbax")
    assert list(tmp_path.iterdir()) == []


def test_overwriting_replaces_the_whole_directory(folder, tmp_path):
    convert_file(folder / "ours", tmp_path / "out", dtype="bfloat16")
    convert_file(folder / "ours", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (folder / "ours" / "model.safetensors").read_bytes()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    with refused("precious is not a checkpoint"):
        convert_file(folder / "ours", tmp_path / "precious", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "precious"]


def test_overwriting_keeps_what_is_not_the_checkpoints(folder, tmp_path):
    """Its own input among them; and a link stays one."""
    convert_file(folder / "ours", tmp_path / "out", dtype="bfloat16")
    write_recipe(tmp_path / "out" / "tiny.pth")
    (tmp_path / "link").symlink_to("out")
    convert_file(tmp_path / "link" / "tiny.pth", tmp_path / "link", config=CONFIG, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", "tiny.pth"}
    assert describe(tmp_path / "out").dtype == "float32"
    (tmp_path / "x.pth").symlink_to("out")
    with refused("a file ending in .pth"):
        export_file(folder / "ours", tmp_path / "x.pth", overwrite=True)


def command(*arguments):
    return [sys.executable, "-m", "convert", *map(str, arguments)]


def environment():
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}


def test_the_command_line(folder, tmp_path, capsys):
    out = tmp_path / "ours"
    arguments = command(folder / "tiny.pth", out, "--config", folder / "tiny.json", "--dtype", "bfloat16")
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: 2,302,604 parameters, trunk bfloat16, 0.01 GB\n")
    with pytest.raises(SystemExit, match="1"):
        main(arguments[3:])
    assert capsys.readouterr().err == f"error: {out} exists; choose another place or overwrite it (--overwrite)\n"


INTERRUPTED = """
import sys, time
from ivggt_jax.convert import assembly
from ivggt_jax.convert.__main__ import main

make = assembly.Assembled.__getitem__

def slow(self, path):
    print("working", flush=True)
    time.sleep(0.05)
    return make(self, path)

assembly.Assembled.__getitem__ = slow
main()
"""


def test_an_interrupted_conversion_leaves_nothing_behind(folder, tmp_path):
    arguments = [str(folder / "tiny.pth"), str(tmp_path / "out"), "--config", str(folder / "tiny.json")]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *arguments],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "working\n"
    while not (tmp_path / ".out.part" / "model.safetensors").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []
