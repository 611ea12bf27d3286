"""PyTorch-named tensors to parameters and back: every name once, every shape, nothing changed, all mismatches at once."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipe import GOLDEN, Recipe

from ivggt_jax import Model, ModelConfig, Predictions, infer_clip, init_stream, load, save
from ivggt_jax.config import HeadName
from ivggt_jax.convert import ConversionError, from_torch, to_torch
from ivggt_jax.convert.names import name_table
from ivggt_jax.model.heads import HEADS
from ivggt_jax.model.parameters import abstract_params, cast, flatten, unflatten
from ivggt_jax.weights.checkpoint import CheckpointError

TINY = ModelConfig.tiny()


class ReadOnce(Mapping[str, np.ndarray]):
    """A checkpoint too large to be read whole or twice."""

    def __init__(self) -> None:
        self.recipe = Recipe("tiny")
        self.read: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.append(name)
        return self.recipe[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.recipe)

    def __len__(self) -> int:
        return len(self.recipe)

    values = items = get = None


def test_there_and_back(tiny: Model):
    recipe, found = Recipe("tiny"), to_torch(tiny)
    assert sorted(found) == sorted(recipe)
    assert len(found) == 741
    for name in recipe:
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], recipe[name], err_msg=name)
    chex.assert_trees_all_equal(from_torch(found, TINY).params, tiny.params)


def test_each_tensor_is_read_once(tiny: Model):
    tensors = ReadOnce()
    model = from_torch(tensors, TINY)
    assert sorted(tensors.read) == sorted(tensors.recipe)
    chex.assert_trees_all_equal(model.params, tiny.params)


def test_full_size_names_and_shapes():
    """1,797 tensors, 1,256,537,516 parameters; shapes alone, no array is made."""
    config = ModelConfig.vggt_1b()
    shapes = {path: x.shape for path, x in flatten(abstract_params(config)).items()}
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 1_256_537_516
    table = name_table(config)
    assert table.keys() == shapes.keys()
    found = {}
    for path, entry in table.items():
        shape = shapes[path][1:] if entry.stacked else shapes[path]
        torch_shape = entry.layout.to_torch(np.broadcast_to(np.False_, shape)).shape
        assert not entry.stacked or shapes[path][0] == len(entry.names)
        for name in entry.names:
            assert name not in found, f"{name} is used twice"
            found[name] = list(torch_shape)
    assert found == json.loads((GOLDEN / "full_names.json").read_text())


def test_parameters_are_those_of_the_modules():
    """A model made from a key has the structure of one from a checkpoint."""
    made = jax.eval_shape(lambda key: Model.initialise(TINY, key).params, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(made, abstract_params(TINY))


def test_random_parameters_are_float32_where_doubles_are_the_default():
    with jax.enable_x64(True):
        made = jax.eval_shape(lambda key: Model.initialise(TINY, key), jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(made)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, "bfloat16", jnp.float32, None])
def test_trunk_type(dtype):
    """Heads are float32 whatever the trunk is; on a CPU the trunk is float32 unless asked."""
    model = from_torch(Recipe("tiny"), TINY, dtype=dtype)
    trunk = jnp.dtype(dtype or jnp.float32)
    for path, x in flatten(model.params).items():
        assert x.dtype == (trunk if path.startswith("aggregator/") else jnp.float32), path


def test_half_precision_goes_back_as_it_is(tiny: Model):
    half = cast(tiny, jnp.bfloat16)
    name = "aggregator.frame_blocks.3.attn.qkv.weight"
    assert to_torch(half)[name].dtype == jnp.bfloat16
    chex.assert_trees_all_equal(from_torch(to_torch(half), TINY, dtype=jnp.bfloat16).params, half.params)


def test_all_mismatches_are_listed_at_once():
    tensors = dict(Recipe("tiny"))
    missing = ["camera_head.token_norm.weight", "aggregator.global_blocks.2.attn.q_norm.bias"]
    misshapen = ["depth_head.norm.bias", "aggregator.frame_blocks.1.mlp.fc2.weight"]
    for name in missing:
        del tensors[name]
    for name in misshapen:
        tensors[name] = tensors[name][..., :-1]
    tensors["aggregator.step"] = np.zeros(())
    with pytest.raises(ConversionError) as error:
        from_torch(tensors, TINY)
    message = str(error.value)
    assert "5 tensors" in message
    assert all(name in message for name in (*missing, *misshapen, "aggregator.step"))
    assert "[127]" in message and "[128]" in message
    assert "[64, 255]" in message and "[64, 256]" in message


def test_other_shapes_need_a_config():
    with pytest.raises(ConversionError, match="config"):
        from_torch(Recipe("tiny"))


def test_a_model_with_some_heads(tiny: Model, tmp_path):
    """The others' parameters are gone, what is left computes the same, and what is gone is missed in time."""
    model = tiny.only_heads(("depth",))
    assert set(model.params) == {"aggregator", "depth"} and model.config.predicts == ("depth",)
    images = np.random.default_rng(0).random((1, 2, 28, 42, 3), np.float32)
    found, expected = (infer_clip(x, images, heads=("depth",)) for x in (model, tiny))
    chex.assert_trees_all_equal(found, expected)
    with pytest.raises(ValueError, match="no parameters for camera, points; this model has depth"):
        infer_clip(model, images, heads=("camera", "depth", "points"))
    chex.assert_trees_all_equal(infer_clip(model, images), expected)
    save(model, tmp_path / "some")
    loaded = load(tmp_path / "some", np.float32)
    assert loaded.config.predicts == ("depth",)
    chex.assert_trees_all_equal(infer_clip(loaded, images, heads=("depth",)), expected)
    half_a_tracker = dict(tiny.params)
    del half_a_tracker["tracker"]
    with pytest.raises(CheckpointError, match=r"broken: \d+ tensors do not fit config.json:\n  missing tracker/"):
        save(Model(tiny.config, half_a_tracker), tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    with pytest.raises(ValueError, match="no parameters for camera"):
        init_stream(model, height=28, width=42, heads=("camera",))


def test_the_table_of_heads_is_whole():
    """Names as the configuration has them, every field one of the predictions', and together all that a network has."""
    assert tuple(HEADS) == get_args(HeadName)
    fields = [field for head in HEADS.values() for field in head.fields]
    assert len(set(fields)) == len(fields) and {*fields, "features", "map"} == {
        f.name for f in dataclasses.fields(Predictions)
    }
    parts = [part for head in HEADS.values() for part in head.parts]
    whole = dataclasses.replace(ModelConfig.tiny(), predicts=tuple(HEADS))
    assert sorted([*parts, "aggregator"]) == sorted(abstract_params(whole))


def test_a_network_is_made_with_the_heads_that_are_asked_for():
    config = dataclasses.replace(ModelConfig.tiny(), predicts=("depth", "tracks"))
    model = Model.initialise(config, jax.random.key(0))
    assert set(model.params) == {"aggregator", "depth", "track_features", "tracker"}
    for predicts in (("tracks", "depth"), ("normals",), ("depth", "depth")):
        with pytest.raises(ValueError, match="predicts must be some of camera, depth, points, tracks"):
            dataclasses.replace(config, predicts=predicts)


def test_models_states_and_predictions_are_compared_by_identity(tiny: Model):
    """Arrays have no one truth value; whether two are equal is asked of their leaves."""
    state = init_stream(tiny, height=28, width=42)
    for value in (tiny, state, Predictions(depth=np.ones((2, 2)))):
        copy = jax.tree.map(lambda x: x, value)
        assert value == value and value != copy and len({value, copy, value}) == 2
        chex.assert_trees_all_equal(value, copy)


def test_flatten_and_back(tiny: Model):
    flat = flatten(tiny.params)
    assert flat["depth/pyramid/projections/0/kernel"].shape == (128, 16)
    chex.assert_trees_all_equal(unflatten(flat), tiny.params)


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"width": 66}, "width 66.*heads 4"),
        ({"mlp_ratio": 0}, "mlp_ratio.*1.*0"),
        ({"dpt_channels": (16, 0, 32, 32)}, r"dpt_channels.*\(16, 0, 32, 32\)"),
        ({"track_heads": 7}, "track_hidden 48.*track_heads 7"),
        ({"track_features": 30}, "track_features 30.*4"),
        ({"heads": 32, "encoder_heads": 32}, "dimension 2 .*4"),
        ({"camera_heads": 7}, "128.*camera_heads 7"),
        ({"image_size": 71}, "71.*14"),
        ({"dpt_layers": (0, 1, 2)}, "dpt_layers.*four"),
        ({"dpt_layers": (0, 1, 2, 2)}, r"\(0, 1, 2, 2\).*3"),
    ],
)
def test_model_configurations_that_do_not_fit_together(fields, numbers):
    with pytest.raises(ValueError, match=numbers):
        ModelConfig(**{**vars(TINY), **fields})
