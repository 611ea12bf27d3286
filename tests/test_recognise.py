"""Checkpoints that people have: VGGT under every wrapper, with fewer heads and with more beside it; others are named."""

import dataclasses
import json

import numpy as np
import pytest
from recipe import Recipe

from ivggt_jax import ModelConfig, infer_clip, load
from ivggt_jax.convert import from_torch
from ivggt_jax.convert.assembly import find_mismatches
from ivggt_jax.convert.command import Convert, convert_file, export_file, run
from ivggt_jax.convert.recognise import recognise
from ivggt_jax.convert.torch_file import open_tensors
from ivggt_jax.convert.torch_writer import write_torch
from ivggt_jax.model.parameters import flatten
from ivggt_jax.weights.checkpoint import CheckpointError, describe
from ivggt_jax.weights.tensor_file import write_safetensors

RECIPE = Recipe("tiny")
CONFIG = ModelConfig.tiny()
ALL = ("camera", "depth", "points", "tracks")
NOTHING = np.zeros(1, np.float32)


def under(rename, *modules, **others):
    """The recipe's tensors of some modules, all by default, under other names, and other tensors beside them."""
    kept = [name for name in RECIPE if not modules or name.startswith(modules)]
    return {rename(name): np.broadcast_to(NOTHING[0], RECIPE.shapes[name]) for name in kept} | {
        name.replace("__", "."): NOTHING for name in others
    }


def inserted(at, what):
    """Puts a wrapper behind a component of every name that has it."""
    return lambda name: name.replace(f"{at}.", f"{at}.{what}.", 1)


def prefixed(prefix):
    return lambda name: prefix + name


@pytest.mark.parametrize(
    "rename",
    [
        *map(
            prefixed,
            (
                "", "module.", "_orig_mod.", "model.", "net.", "network.", "vggt.", "encoder.", "state_dict.",
                "model.module.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod.", "net._orig_mod.module.",
                "model.module._orig_mod.net.", "state_dict.model.", "model.state_dict.module.", "student.", "model.vggt.",
                "_forward_module.model.", "my_trainer.wrapped.", "model.encoder.",
            ),
        ),
        inserted("aggregator", "_orig_mod"),
        inserted("frame_blocks", "_fsdp_wrapped_module"),
        inserted("blocks.0", "_checkpoint_wrapped_module"),
        inserted("aggregator", "module"),
        lambda name: "model." + inserted("depth_head", "_orig_mod")(inserted("blocks.1", "_fsdp_wrapped_module")(name)),
    ],
)  # fmt: skip
def test_wrappers_and_prefixes_are_taken_off(rename):
    found = recognise(under(rename), CONFIG, "x.pth")
    assert set(found.tensors) == set(RECIPE) and found.heads == ALL and found.left_out == ""
    assert find_mismatches(found.tensors, CONFIG) == []


@pytest.mark.parametrize(
    ("modules", "heads"),
    [
        (("aggregator", "camera_head", "depth_head"), ("camera", "depth")),
        (("aggregator", "camera_head", "depth_head", "point_head"), ("camera", "depth", "points")),
        (("aggregator", "camera_head"), ("camera",)),
        (("aggregator", "depth_head"), ("depth",)),
        (("aggregator", "track_head"), ("tracks",)),
        (("aggregator", "camera_head", "point_head"), ("camera", "points")),
        (("aggregator",), ()),
    ],
)
def test_heads_that_are_absent_are_left_out(modules, heads):
    found = recognise(under(prefixed("model."), *modules), CONFIG, "x.pth")
    assert found.heads == heads
    assert find_mismatches(found.tensors, CONFIG, heads) == []


@pytest.mark.parametrize(
    ("others", "left_out"),
    [
        (dict(gaussian_head__weight=0, gaussian_head__bias=0), "gaussian_head (2 tensors)"),
        (dict(gaussian_param_head__scratch__conv__weight=0), "gaussian_param_head (1 tensor)"),
        (dict(aggregator___resnet_mean=0, aggregator___resnet_std=0), "aggregator._resnet_mean (1 tensor), agg"),
        (dict(image_mean=0, image_std=0), "image_mean (1 tensor), image_std (1 tensor)"),
        (dict(aggregator__rope__inv_freq=0), "aggregator.rope.inv_freq (1 tensor)"),
        (dict(lpips__net__lin0__weight=0, loss__scale=0), "lpips (1 tensor), loss (1 tensor)"),
        (dict(segmentation__0__weight=0), "segmentation (1 tensor)"),
        (dict(step=0), "step (1 tensor)"),
        (dict(motion_head__fc__weight=0, sky_head__fc__weight=0), "motion_head (1 tensor), sky_head (1 tensor)"),
        (dict(optimizer__exp_avg=0), "optimizer (1 tensor)"),
    ],
)
def test_other_modules_and_buffers_are_left_out_and_named(others, left_out):
    for rename in (prefixed(""), prefixed("module.")):
        found = recognise(under(rename, **others), CONFIG, "x.pth")
        assert found.left_out.startswith(left_out)
        assert find_mismatches(found.tensors, CONFIG) == []


def test_what_lies_outside_a_prefix_is_left_out_too():
    tensors = under(prefixed("model."), ema__decay=0, teacher__weight=0, model__gaussian_head__weight=0)
    assert recognise(tensors, CONFIG, "x").left_out == ("ema (1 tensor), teacher (1 tensor), gaussian_head (1 tensor)")


def test_of_the_network_and_its_average_the_network_is_taken():
    tensors = under(prefixed("model.module.")) | under(prefixed("ema."), "aggregator")
    found = recognise(tensors, CONFIG, "x")
    assert set(found.tensors) == set(RECIPE) and found.left_out.startswith("ema (")
    with pytest.raises(CheckpointError, match="x.pth holds 2 networks, under student, teacher; save the one"):
        recognise(under(prefixed("student.")) | under(prefixed("teacher.")), CONFIG, "x.pth")
    with pytest.raises(CheckpointError, match="x.pth holds 2 networks, under the top, model; save"):
        recognise(under(prefixed("")) | under(prefixed("model.")), CONFIG, "x.pth")


@pytest.mark.parametrize(
    "extra",
    [
        "aggregator.depth_embed.weight",
        "aggregator.patch_embed.blocks.0.attn.q_norm.weight",
        "aggregator.frame_blocks.4.norm1.weight",
        "aggregator.frame_blocks.0.adapter.down.weight",
        "aggregator.global_blocks.0.attn.qkv.SCB",
        "camera_head.trunk.9.norm1.weight",
        "depth_head.scratch.output_conv3.weight",
        "aggregator.scale_token",
        "point_head.norm.extra",
        "track_head.tracker.memory.weight",
    ],
)
def test_what_stands_inside_shared_modules_is_a_problem(extra):
    """Without it the network would compute something else, so it is not left out."""
    found = recognise(under(prefixed("model.")) | {f"model.{extra}": NOTHING}, CONFIG, "x")
    assert find_mismatches(found.tensors, CONFIG) == [f"unexpected {extra}"]


def test_quantised_tensors_are_a_problem():
    name = "aggregator.global_blocks.0.attn.qkv.weight"
    tensors = under(prefixed("")) | {name: np.zeros(RECIPE.shapes[name], np.int8)}
    assert find_mismatches(tensors, CONFIG) == [f"{name} is int8, not a floating-point tensor"]


def test_half_a_head_is_a_problem():
    tensors = {name: x for name, x in under(prefixed("")).items() if not name.startswith("track_head.tracker")}
    found = recognise(tensors, CONFIG, "x")
    assert found.heads == ALL
    problems = find_mismatches(found.tensors, CONFIG, found.heads)
    assert problems and all(problem.startswith("missing track_head.tracker.") for problem in problems)


@pytest.mark.parametrize(
    "names",
    [
        ["base_model.model.aggregator.frame_blocks.0.attn.qkv.lora_A.weight"],
        ["base_model.model.aggregator.frame_blocks.0.attn.qkv.lora_B.default.weight"],
        ["aggregator.frame_blocks.0.attn.qkv.lora_down.weight"],
        ["lora_aggregator_frame_blocks_0.alpha"],
        ["aggregator.frame_blocks.0.attn.qkv.lora_magnitude_vector.weight"],
        ["aggregator.frame_blocks.0.attn.qkv.hada_w1_a"],
        ["aggregator.frame_blocks.0.attn.qkv.lokr_w1"],
        ["aggregator.frame_blocks.0.attn.qkv.oft_R.weight"],
        [*RECIPE, "aggregator.frame_blocks.0.attn.qkv.lora_A.weight"],
        ["module.model.camera_head.trunk.0.attn.qkv.lora.A"],
    ],
)
def test_adapters_are_named(names):
    with pytest.raises(CheckpointError, match="x.pth is an adapter or holds one .*LoRA.*merge_and_unload"):
        recognise(dict.fromkeys(names, NOTHING), CONFIG, "x.pth")


@pytest.mark.parametrize(
    ("names", "network"),
    [
        (
            ["encoder.cls_token", "decoder.0.norm1.weight", "point_decoder.x", "camera_decoder.x", "register_token"],
            "Pi3",
        ),
        (["module.register_token", "module.point_decoder.x", "module.camera_decoder.x", "module.conf_head.x"], "Pi3"),
        (["encoder.model.blocks.0.x", "info_sharing.self_attention_blocks.0.x", "dense_head.x"], "MapAnything"),
        (["model.backbone.pretrained.blocks.0.x", "model.head.norm.weight", "model.cam_dec.x"], "Depth Anything 3"),
        (["da3.backbone.pretrained.cls_token", "da3_metric.backbone.pretrained.cls_token"], "Depth Anything 3"),
        (["pretrained.blocks.0.x", "depth_head.projects.0.weight"], "Depth Anything;"),
        (["enc_blocks.0.x", "dec_blocks.0.x", "dec_blocks2.0.x", "downstream_head1.x"], "DUSt3R family"),
        (["model.enc_blocks.0.x", "model.dec_blocks.0.x", "model.dec_blocks_state.0.x"], "DUSt3R family"),
        (["cls_token", "pos_embed", "blocks.0.norm1.weight", "norm.weight"], "DINOv2"),
        (["module.cls_token", "module.pos_embed", "module.blocks.0.norm1.weight"], "DINOv2"),
    ],
)
def test_other_networks_are_named(names, network):
    with pytest.raises(CheckpointError, match=f"x.pth is another network, .*{network}.*VGGT, StreamVGGT and Infini"):
        recognise(dict.fromkeys(names, NOTHING), CONFIG, "x.pth")


@pytest.mark.parametrize(
    ("names", "because"),
    [
        (["conv1.weight", "layer1.0.bias", "layer1.1.bias"], r"consists of layer1 \(2 tensors\), conv1 \(1 tensor\)"),
        (["x"], r"it consists of x \(1 tensor\)"),
        ([], "it consists of nothing"),
        (["camera_head.token_norm.weight"], r"no module aggregator; it consists of camera_head \(1 tensor\)"),
        (["xaggregator.camera_token"], "no module aggregator"),
    ],
)
def test_what_is_unknown_is_described(names, because):
    with pytest.raises(CheckpointError, match=f"x.pth is not VGGT: .*{because}"):
        recognise(dict.fromkeys(names, NOTHING), CONFIG, "x.pth")


def test_two_names_for_one_tensor_are_refused():
    tensors = under(prefixed("")) | {"module.aggregator.camera_token": NOTHING}
    with pytest.raises(CheckpointError, match="x has two tensors for aggregator.camera_token: agg.* and module.agg"):
        recognise(tensors, CONFIG, "x")


# What is recognised is also converted, to the bit.


def write(path, tensors, dtype=np.float32):
    layout = {name: (x.shape, np.dtype(dtype)) for name, x in tensors.items()}
    writer = write_safetensors if path.suffix == ".safetensors" else write_torch
    writer(path, layout, lambda name: np.asarray(tensors[name], dtype))
    return path


def real(prefix, *modules):
    return {prefix + name: RECIPE[name] for name in RECIPE if not modules or name.startswith(modules)}


@pytest.fixture
def config_file(tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(dataclasses.asdict(CONFIG)))
    return tmp_path / "tiny.json"


def assert_part_of(model, tiny):
    expected = flatten(tiny.only_heads(model.config.predicts).params)
    found = flatten(model.params)
    assert found.keys() == expected.keys()
    for path, x in expected.items():
        assert np.asarray(found[path]).tobytes() == np.asarray(x).tobytes(), path


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_slim_checkpoint_goes_there_and_back(tiny, tmp_path, config_file, capsys, suffix):
    """As VGGT's own trainer leaves it: two heads, a wrapper, and a Gaussian head beside them."""
    tensors = real("model.module.", "aggregator", "camera_head", "depth_head")
    tensors["model.module.gaussian_head.weight"] = np.ones(3, np.float32)
    path = write(tmp_path / f"slim.{suffix}", tensors)
    assert run(Convert(str(path), tmp_path / "slim", config=config_file)) == 0
    printed = capsys.readouterr()
    assert printed.err == f"{path}: left out, as VGGT has no such parts: gaussian_head (1 tensor)\n"
    assert "\nheads: camera, depth; the input has no points, tracks\n" in printed.out
    model = load(tmp_path / "slim", np.float32)
    assert model.config.predicts == ("camera", "depth") and describe(tmp_path / "slim").config == model.config
    assert_part_of(model, tiny)
    images = np.random.default_rng(0).random((1, 2, 28, 42, 3), np.float32)
    with pytest.raises(ValueError, match="no parameters for points; this model has camera, depth"):
        infer_clip(model, images, heads=("depth", "points"))
    assert infer_clip(model, images).points is None, "by default it predicts what it can"
    export_file(tmp_path / "slim", tmp_path / "back.pth")
    back = open_tensors(tmp_path / "back.pth")
    assert back.keys() == real("", "aggregator", "camera_head", "depth_head").keys()
    for name, x in back.items():
        np.testing.assert_array_equal(x, RECIPE[name])


def test_half_precision_in_any_wrapper(tiny, tmp_path):
    write(tmp_path / "x.pth", real("_orig_mod.", "aggregator", "camera_head"), np.float16)
    convert_file(tmp_path / "x.pth", tmp_path / "x", config=CONFIG)
    for path, x in flatten(load(tmp_path / "x", np.float32).params).items():
        expected = np.asarray(flatten(tiny.params)[path])
        np.testing.assert_array_equal(np.asarray(x), expected.astype(np.float16).astype(np.float32))


def test_orbax_keeps_a_slim_model(tiny, tmp_path):
    pytest.importorskip("orbax.checkpoint")
    write(tmp_path / "x.pth", real("", "aggregator", "depth_head"))
    convert_file(tmp_path / "x.pth", tmp_path / "orbax", to="orbax", config=CONFIG)
    convert_file(tmp_path / "orbax", tmp_path / "ours")
    model = load(tmp_path / "ours", np.float32)
    assert model.config.predicts == ("depth",)
    assert_part_of(model, tiny)


def test_from_torch_takes_what_files_have(tiny):
    model = from_torch(real("net.", "aggregator", "point_head"), CONFIG, dtype=np.float32)
    assert model.config.predicts == ("points",)
    assert_part_of(model, tiny)


def test_any_model_s_own_configuration_will_do(tiny):
    """The file tells which heads are there, whatever the configuration predicts; published weights take no depth."""
    for config in (dataclasses.replace(CONFIG, predicts=("camera",)), dataclasses.replace(CONFIG, depth_input=True)):
        model = from_torch(real("", "aggregator", "point_head"), config, dtype=np.float32)
        assert model.config == dataclasses.replace(CONFIG, predicts=("points",))


def test_the_command_says_what_is_no_vggt(tmp_path, config_file):
    path = write(tmp_path / "x.pth", {"enc_blocks.0.x": NOTHING, "dec_blocks.0.x": NOTHING})
    with pytest.raises(CheckpointError, match=r"x.pth is another network, of the DUSt3R family"):
        run(Convert(str(path), tmp_path / "out", config=config_file))
    assert not (tmp_path / "out").exists()


def test_layers_beyond_the_configuration_are_not_left_out(tmp_path, config_file):
    path = write(tmp_path / "x.pth", real(""))
    fields = dataclasses.asdict(CONFIG) | {"encoder_depth": CONFIG.encoder_depth - 1}
    config_file.write_text(json.dumps(fields))
    with pytest.raises(
        CheckpointError, match=r"14 tensors do not fit the model:\n  unexpected aggregator.patch_embed.b"
    ):
        run(Convert(str(path), tmp_path / "out", config=config_file))


@pytest.mark.parametrize("wrap", [lambda fields: fields, lambda fields: {"run": {}, "model": fields}])
def test_any_description_of_a_model_is_a_configuration(tiny, tmp_path, wrap):
    """The fields alone, a training run's config.json, and below a checkpoint's own."""
    write(tmp_path / "x.pth", real(""))
    (tmp_path / "config.json").write_text(json.dumps(wrap(dataclasses.asdict(CONFIG))))
    run(Convert(str(tmp_path / "x.pth"), tmp_path / "first", config=tmp_path / "config.json"))
    run(Convert(str(tmp_path / "x.pth"), tmp_path / "second", config=tmp_path / "first" / "config.json"))
    assert_part_of(load(tmp_path / "second", np.float32), tiny)
