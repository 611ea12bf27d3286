"""Any repository of the Hub: its weights are found, at a revision too, converted once, and named when they are none."""

import json

import numpy as np
import pytest
from hub_server import COMMIT, serve
from huggingface_hub import constants
from recipe import Recipe
from test_hub import point_to, refused

from ivggt_jax import ModelConfig, load, save
from ivggt_jax.convert.command import Convert, run
from ivggt_jax.convert.torch_writer import write_torch
from ivggt_jax.model.parameters import flatten
from ivggt_jax.weights import hub, loading
from ivggt_jax.weights.checkpoint import describe
from ivggt_jax.weights.hub import Source
from ivggt_jax.weights.tensor_file import write_safetensors

RECIPE = Recipe("tiny")
NAME = "someone/slim-vggt"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(ModelConfig, "vggt_1b", classmethod(lambda cls: cls.tiny()))
    with serve() as running:
        point_to(running.url, tmp_path, monkeypatch)
        yield running


def weights(tmp_path, suffix, names):
    path = tmp_path / f"written{suffix}"
    layout = {name: (tuple(RECIPE.shapes[name]), np.dtype(np.float32)) for name in names}
    (write_safetensors if suffix == ".safetensors" else write_torch)(path, layout, RECIPE.__getitem__)
    return path.read_bytes()


def slim(tmp_path, suffix):
    return weights(tmp_path, suffix, [name for name in RECIPE if name.startswith(("aggregator", "camera_head"))])


def assert_slim(model, tiny):
    assert model.config.predicts == ("camera",)
    for path, x in flatten(tiny.only_heads(("camera",)).params).items():
        np.testing.assert_array_equal(np.asarray(flatten(model.params)[path]), np.asarray(x))


@pytest.mark.parametrize("file", ["model.safetensors", "checkpoints.pth", "pytorch_model.bin", "last.ckpt", "vggt.pt"])
def test_a_repository_with_weights_under_any_name(server, tiny, tmp_path, file, capsys):
    server.files[f"{NAME}/{file}"] = slim(tmp_path, ".safetensors" if file.endswith("safetensors") else ".pth")
    server.files |= {f"{NAME}/config.json": b'{"img_size": 70}', f"{NAME}/README.md": b"", f"{NAME}/optimizer.pt": b"x"}
    for _ in range(2):
        assert_slim(load(NAME, np.float32), tiny)
    assert capsys.readouterr().err.count(f"{NAME}: mit\n") == 2
    source = loading.identify(NAME)
    assert (source.name, source.revision, source.licence, len(source.sha256)) == (NAME, COMMIT, "mit", 64)
    assert len(server.downloads()) == 2  # config.json and the weights, once


def test_a_sharded_repository(server, tiny, tmp_path):
    names = [name for name in RECIPE if name.startswith(("aggregator", "camera_head"))]
    shards = {f"model-{i:05}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for shard, held in shards.items():
        server.files[f"{NAME}/{shard}"] = weights(tmp_path, ".safetensors", held)
    assert_slim(load(NAME, np.float32), tiny)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    server.files["a/b/model.safetensors.index.json".replace("a/b", "someone/indexed")] = json.dumps(
        {"weight_map": weight_map}
    ).encode()
    server.files |= {f"someone/indexed/{shard}": server.files[f"{NAME}/{shard}"] for shard in shards}
    assert_slim(load("someone/indexed", np.float32), tiny)
    digests = {loading.identify(name).sha256 for name in (NAME, "someone/indexed")}
    assert len(digests) == 1


def test_a_repository_with_a_checkpoint_of_this_project(server, tiny, tmp_path, capsys):
    save(tiny.only_heads(("camera",)), tmp_path / "ours", source=Source(name="mine", licence="a licence"))
    for file in (tmp_path / "ours").iterdir():
        server.files[f"{NAME}/{file.name}"] = file.read_bytes()
    assert_slim(load(NAME, np.float32), tiny)
    assert capsys.readouterr().err == "mine: a licence\n"
    assert describe(loading.locate(NAME)).source == Source(name="mine", licence="a licence")
    run(Convert(NAME, tmp_path / "copy"))
    assert_slim(load(tmp_path / "copy", np.float32), tiny)


@pytest.mark.parametrize("revision", ["v2", "refs/pr/1", COMMIT])
def test_a_revision(server, tiny, tmp_path, revision):
    server.files[f"{NAME}/model.safetensors"] = slim(tmp_path, ".safetensors")
    assert_slim(load(f"{NAME}@{revision}", np.float32), tiny)
    (made,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert made.name == f"{NAME}@{revision}".replace("/", "--")
    assert loading.identify(f"{NAME}@{revision}").name == NAME


def test_a_revision_of_a_published_model(server, tmp_path):
    server.files["lch01/StreamVGGT/checkpoints.pth"] = b"content"
    file, source = hub.fetch("lch01/StreamVGGT@v2")
    assert file.read_bytes() == b"content" and source.licence.startswith("CC BY-NC-SA")
    for name in ("lch01/StreamVGGT@v3", f"{NAME}@v3"):
        server.files[f"{NAME}/model.safetensors"] = b"x"
        with refused(f"{name.partition('@')[0]} has no revision 'v3'; its page lists"):
            hub.fetch(name)


def test_offline_mode_takes_what_was_downloaded(server, tiny, tmp_path, monkeypatch):
    server.files[f"{NAME}/model.safetensors"] = slim(tmp_path, ".safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refused(f"{NAME} was not downloaded before and offline mode is set"):
        load(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.fetch(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_slim(load(NAME, np.float32), tiny)


@pytest.mark.parametrize(
    ("files", "because"),
    [
        ({}, "no file or folder 'someone/slim-vggt' is here, and http.*/someone/slim-vggt is missing or private"),
        ({"README.md": b""}, "someone/slim-vggt is not a checkpoint: .* no file of weights"),
        ({"adapter_model.safetensors": b"", "adapter_config.json": b""}, "is an adapter, such as LoRA"),
        ({"a.pth": b"", "b.pth": b""}, "holds several files of weights: a.pth, b.pth; give one of them"),
        ({"deep/model.safetensors": b""}, "no file of weights"),
        ({"model.safetensors": b"version https://git-lfs"}, "not a safetensors file, or is truncated"),
        ({"model.pth": b"<html>"}, "is a web page, not a checkpoint"),
        ({"model-00001-of-00002.safetensors": b"x"}, "has no file"),
        ({"model.safetensors.index.json": b"[]"}, "holds a list, not an object"),
        ({"config.json": b"{", "model.safetensors": b"x"}, "config.json is not JSON"),
    ],
)
def test_repositories_without_sound_weights(server, tmp_path, files, because):
    server.files |= {f"{NAME}/{name}": data for name, data in files.items()}
    with refused(because):
        load(NAME)
    assert not [path for path in (tmp_path / "cache").glob("*") if path.is_dir()]


def test_refusals_of_any_repository(server):
    server.files[f"{NAME}/model.safetensors"] = b"x"
    server.refusals[NAME] = (403, "GatedRepo")
    with refused("slim-vggt is gated: accept its terms at"):
        hub.fetch(NAME)
    server.refusals.clear()
    server.token = "secret"
    with refused("is gated|is missing or private"):
        hub.fetch(NAME)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", True), ("owner/name@v1.0", True), ("owner/name@refs/pr/3", True), ("Own-er_1/na.me", True),
        ("name", False), ("a/b/c", False), ("./name", False), ("../name", False), ("/owner/name", False),
        ("owner/name.pth", False), ("owner/model.safetensors", False), ("owner/x.index.json", False),
        ("owner/", False), ("owner/name@", False), ("owner/.hidden", False), ("here/missing", False), ("a b/c", False),
        ("facebook/VGGT-1B", True), ("facebook/VGGT-1B@main", True), ("facebook/other", False),
    ],
)  # fmt: skip
def test_names_are_told_from_paths(tmp_path, monkeypatch, text, expected):
    (tmp_path / "here").mkdir()
    (tmp_path / "facebook").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.is_name(text) == expected
