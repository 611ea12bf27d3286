"""What the measuring tool measures: that it is the program a run executes, at a full cache, and nothing of its own."""

import json
import os
from dataclasses import replace
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lowering import questions
from streaming import HEIGHT, TOKENS, WIDTH

from ivggt_jax import CacheConfig, Model, ModelConfig, init_stream, save, step
from ivggt_jax.bench import case, device, report
from ivggt_jax.bench.__main__ import BenchConfig, bench, main, measure_case
from ivggt_jax.bench.case import Case, fill, start
from ivggt_jax.bench.flat import run_flat
from ivggt_jax.bench.own import WARM_UP, Own
from ivggt_jax.bench.process import measuring, requests
from ivggt_jax.bench.stages import STAGES, make_inputs, run_stage
from ivggt_jax.config import PRESETS
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.model.parameters import abstract_params, flatten, unflatten

SMALL = Case(model="tiny", size=f"{WIDTH}x{HEIGHT}", budget=4 * 3 * TOKENS, heads=("camera", "depth"))
DEEP = replace(ModelConfig.tiny(), depth=12, dpt_layers=(2, 5, 8, 11))


@pytest.fixture(scope="module")
def small(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """`SMALL` with weights from a file, since making random ones takes longer than the tests; its camera is the identity."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    flat = flatten(tiny.params)
    last = "camera/pose_branch/fc2/"
    flat[last + "kernel"] = jnp.zeros_like(flat[last + "kernel"])
    flat[last + "bias"] = jnp.array([0, 0, 0, 0, 0, 0, 1, 1, 1], jnp.float32) / tiny.config.camera_iterations
    save(Model(tiny.config, unflatten(flat)), path)
    return replace(SMALL, checkpoint=str(path))


def test_random_weights_have_the_type_of_the_device(monkeypatch: pytest.MonkeyPatch):
    """They are made on the host, whose own type may be another."""
    monkeypatch.setattr(Model, "initialise", lambda config, key: Model(config, abstract_params(config)))
    monkeypatch.setattr(case, "cast", lambda model, trunk: trunk)
    monkeypatch.setattr(jax, "device_put", lambda trunk, device: trunk)
    assert case.make_model(Case(model="tiny")) == jnp.float32
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert case.make_model(Case(model="tiny")) == jnp.bfloat16
    assert case.make_model(Case(model="tiny", precision="float32")) == jnp.float32


def test_a_filled_cache_is_one_at_its_budget(tiny: Model):
    """The program is the one that an empty cache has, every layer holds its share, and each frame evicts as many as come."""
    state = start(SMALL, tiny)
    fresh = [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)]
    traced_once = jax.jit(chex.assert_max_traces(step.__wrapped__, n=1), donate_argnames="state")
    image = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    state, _ = traced_once(tiny, state, image)
    state = fill(state, 10_000)
    assert [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)] == fresh
    np.testing.assert_array_equal(state.lengths, np.full((1, 4), 3 * TOKENS))
    assert state.frame == 10_000
    keys = np.asarray(state.cache.keys)
    assert np.isfinite(keys).all() and len(np.unique(keys)) > 0.99 * keys.size
    for _ in range(3):
        state, predictions = traced_once(tiny, state, image)
        assert 4 * 3 * TOKENS - 4 <= state.lengths.sum() <= 4 * 3 * TOKENS
    assert np.isfinite(predictions.depth).all()


def test_a_cache_is_as_full_as_after_the_frames_seen(tiny: Model):
    state = fill(start(replace(SMALL, budget=4 * 100 * TOKENS, batch=2), tiny), 7)
    np.testing.assert_array_equal(state.lengths, np.full((2, 4), 7 * TOKENS))


def test_defaults_are_the_published_ones():
    """1,200,000 tokens for the full model at 518×392, 48 frames a layer elsewhere."""
    full, tiny = ModelConfig.vggt_1b(), ModelConfig.tiny()
    assert Case().image_size(full) == (392, 518) and Case().cache(full) == CacheConfig()
    assert Case().image_size(tiny) == (56, 70) and Case().cache(tiny).total_budget == 48 * 4 * 25
    assert Case(size="266x196").cache(full).total_budget == 48 * 24 * (5 + 19 * 14)


def test_presets_are_those_of_the_cache():
    """At the full model's size; elsewhere `small` keeps 20 frames a layer instead of 48. What is given goes before."""
    full, tiny = ModelConfig.vggt_1b(), ModelConfig.tiny()
    for preset in PRESETS:
        assert Case(preset=preset, chunk=4).cache(full) == CacheConfig.preset(preset)
    assert Case(preset="small", chunk=4).cache(tiny).total_budget == 20 * 4 * 25
    given = Case(preset="small", chunk=4, budget=900, frames_per_step=2, cache_dtype="bfloat16").cache(full)
    assert (given.total_budget, given.frames_per_step, given.dtype) == (900, 2, "bfloat16")


@pytest.mark.parametrize("what", ["fill", "global blocks", "eviction", "camera head"])
def test_measuring_copies_no_cache(what):
    """Like the step itself: every buffer in place, temporaries below one of 12 layers' caches. Nothing is run."""
    model = Model(DEEP, abstract_params(DEEP))
    case = replace(SMALL, size="28x28", budget=1_600_000)
    state = jax.eval_shape(lambda: start(case, model))
    if what == "fill":
        lowered = fill.lower(state, 10_000)
    else:
        inputs = jax.eval_shape(lambda: make_inputs(model, state))
        lowered = run_stage.lower(what, model, state, inputs)
    memory = lowered.compile().memory_analysis()
    buffers = state.cache if what != "camera head" else state.camera
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(buffers))
    everything = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert memory.alias_size_in_bytes >= everything - 1024
    if what != "camera head":  # its ring is small, and one layer of it is what a token attends to
        assert memory.temp_size_in_bytes < size / DEEP.depth


def lowered_step(platform: str):
    """Of the tiny model, for a platform that need not be here."""
    model = Model(ModelConfig.tiny(), abstract_params(ModelConfig.tiny()))
    state = jax.eval_shape(lambda: init_stream(model, CacheConfig(total_budget=4 * 3 * TOKENS), height=28, width=42))
    frame = jax.ShapeDtypeStruct((1, 28, 42, 3), jnp.uint8)
    return step.trace(model, state, frame).lower(lowering_platforms=(platform,))


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_a_step_calls_nothing_on_the_host(platform):
    """No callback, no transfer in the program; a program that has one shows it."""
    program = lowered_step(platform).as_text()
    for word in ("callback", "infeed", "outfeed", "stablehlo.send", "stablehlo.recv"):
        assert word not in program


def test_a_layer_asks_the_host_twice():
    """On a GPU the host reads the outcome of what a program asks: "over the budget?" and, after a round, "still?".

    Loops that count to a constant are known to end, and nothing is read. The program is that of a GPU without our kernels.
    """
    asked = questions(lowered_step("cuda"))
    assert sorted(asked) == [("stablehlo.case", True), ("stablehlo.while", True)]


def test_a_callback_would_be_seen():
    def talkative(x):
        jax.debug.print("{}", x)
        return x

    assert "callback" in jax.jit(talkative).lower(1.0).as_text()


def test_own_measurement(small: Case, monkeypatch: pytest.MonkeyPatch):
    """In this process, two streams, two frames a pass, int8 caches: every figure is there, every stage has a floor."""
    monkeypatch.setattr(device, "matrix_rate", lambda dtype: 1e9)
    monkeypatch.setattr(device, "bandwidth", lambda: 1e12)
    own = Own(replace(small, batch=2, chunk=2, frames_per_step=2, cache_dtype="int8", heads=("depth",)), 2)
    begun = own.begin()
    assert begun["settings"]["budget"] == 4 * 3 * TOKENS and begun["settings"]["tokens_per_frame"] == TOKENS
    assert own.fill()["live_tokens"] == pytest.approx(3 * TOKENS, abs=1)  # budgets are rounded down
    assert own.frame() > 0
    assert own._model.config.predicts == ("depth",)
    finished = own.finish()
    assert list(finished["stages"]) == ["encoder", "frame blocks", "global blocks", "eviction", "dense heads"]
    for stage in finished["stages"].values():
        assert stage["floor"] == stage["operations"] / 1e9
    np.testing.assert_array_equal(own._state.frame, 10_000 + 2 * (WARM_UP + 1 + 2))


def test_a_cache_that_is_not_full_has_no_eviction_to_time(small: Case):
    own = Own(replace(small, budget=4 * 100 * TOKENS, seen=2, heads=()), 2)
    own.begin()
    own.fill()
    assert list(own._costs()) == ["encoder", "frame blocks", "global blocks"]


def test_every_combination_is_swept():
    config = BenchConfig(case=SMALL, sweep=("budget=200,400", "size=28x28,42x28", "batch=3", "cache_dtype=int8"))
    found = [(case.budget, case.size, case.batch, case.cache_dtype, case.model) for case in config.cases()]
    assert found == [(b, s, 3, "int8", "tiny") for b in (200, 400) for s in ("28x28", "42x28")]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--sweep", "depth=3"], "give NAME=VALUE,VALUE with one of size, budget, seen, batch, chunk, frames_per_step"),
        (["--sweep", "batch=few"], "'few' is not a whole number"),
        (["--size", "518"], "--size must be like 518x392"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--json", "nowhere/bench.json"], "--json nowhere/bench.json: there is no folder nowhere"),
        (["--json", "."], "--json . is a folder; give the file to write"),
        (["--model", "tiny", "--flat", "500", "--budget", "0"], "total_budget must be positive, not 0"),
        (["--frames", "1"], "--frames must be at least 2"),
        (["--reference", "clone", "--batch", "2"], "one stream and all of camera, depth and points"),
        (["--reference", "clone", "--sweep", "batch=1,2"], "one stream and all of camera, depth and points"),
        (["--reference", "clone", "--model", "tiny"], "published shapes only"),
        (["--reference", "clone", "--cache-dtype", "int8"], "frame by frame, its cache in the trunk's type"),
        (["--chunk", "6", "--frames-per-step", "4"], "--chunk 6 is not a multiple of --frames-per-step 4"),
        (["--preset", "fast"], "--chunk 1 is not a multiple of --frames-per-step 4"),
        (["--flat", "500", "--model", "tiny", "--batch", "2"], "one stream, frame by frame"),
    ],
)
def test_options_that_make_no_sense(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code in (1, 2)
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_flat_run(small: Case, tmp_path: Path):
    """The windows are the first and the last tenth after the budget is reached: 3 frames a layer, of 114."""
    out = tmp_path / "flat.json"
    assert bench(BenchConfig(case=small, flat=114, json=out)) == 0
    record = json.loads(out.read_text())
    assert record["first"]["frames"] == [4, 15] and record["last"]["frames"] == [103, 113]
    assert record["first"]["host"] > 50 * report.MEBIBYTE and record["first"]["seconds"] > 0
    assert record["first"]["stream"] == record["last"]["stream"] > 10_000


@pytest.mark.slow
def test_a_flat_run_with_a_map(small: Case):
    """Submaps of 20 frames, refined, and their places; frames of a rendered room."""
    first, last = run_flat(small, 124, SubmapOptions(submaps="20", loops=True))
    assert first.stream == last.stream
    with pytest.raises(ValueError, match="are for --flat"):
        BenchConfig(case=small, mapping=SubmapOptions(submaps="20"))


def test_a_flat_run_that_is_too_short(small: Case):
    with pytest.raises(ValueError, match="the budget is reached at frame 4; a tenth of the rest is too short"):
        run_flat(small, 100)


def _serve(pipe, name: str) -> None:
    for request in requests(pipe):
        if request == "fail":
            raise ValueError(f"no luck, {name}")
        if request == "die":
            os._exit(3)
        pipe.send((request, name, os.environ["BENCH_TEST"]))


def test_a_process_answers_fails_and_dies():
    with measuring(_serve, "Ada", environment={"BENCH_TEST": "set"}) as ask:
        assert ask("hello") == ("hello", "Ada", "set")
        with pytest.raises(ValueError, match="no luck, Ada"):
            ask("fail")
    assert "BENCH_TEST" not in os.environ
    with (
        pytest.raises(ValueError, match="ended with code 3 at 'die'"),
        measuring(_serve, "Bob", environment={"BENCH_TEST": "set"}) as ask,
    ):
        ask("die")


STAGE = {"seconds": 0.004, "operations": 3_000_000_000, "bytes": 5_000_000, "floor": 0.002}
RESULT = {
    "settings": {
        "checkpoint": None, "model": "vggt_1b", "width": 518, "height": 392, "batch": 1, "chunk": 1,
        "frames_per_step": 1, "cache_dtype": None, "heads": ["depth"], "precision": "bfloat16",
        "budget": 1_200_000, "live_tokens": 50_000, "state_bytes": 7 << 30,
    },
    "seconds": {"load": 1.0, "first_frame": 2.5, "first_frame_cold": 40.0, "p50": 0.020, "p95": 0.025},
    "frames_per_second": 55.5, "memory": {"host": 3 << 30, "device": 9 << 30}, "floor": 0.010,
    "rates": {"trunk": 700e12, "float32": 300e12, "bandwidth": 4e12}, "stages": {"encoder": STAGE},
}  # fmt: skip


def test_tables():
    text = report.result_tables(RESULT)
    assert "| ms/frame, median | 20.00 |" in text and "| ms/frame over its floor | 2.00 |" in text
    assert "| encoder | 4.00 | 3.0 | 5 | 2.00 | 2.00 |" in text
    assert "PyTorch" not in text


def test_tables_beside_the_pytorch_code():
    reference = {"seconds": {"p50": 0.100, "p95": 0.150}, "memory": {"host": 6 << 30, "device": 18 << 30}}
    text = report.result_tables(RESULT | {"reference": reference})
    assert "| ms/frame, median | 20.00 | 100.00 | 0.20 |" in text
    assert "| peak device memory | 9,216 MiB | 18,432 MiB | 0.50 |" in text
    assert "| frames/s, one call in flight | 55.50 |  |  |" in text


@pytest.mark.slow
def test_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture):
    """In processes of its own, compiled from nothing and from the cache."""
    out = tmp_path / "bench.json"
    config = BenchConfig(case=SMALL, frames=3, sweep=("batch=1,2",), json=out)
    assert bench(config) == 0
    results = json.loads(out.read_text())["results"]
    assert [result["settings"]["batch"] for result in results] == [1, 2]
    for result in results:
        assert len(result["samples"]) == 3
        assert result["seconds"]["first_frame"] < result["seconds"]["first_frame_cold"]
        assert set(result["stages"]) == set(STAGES)
    assert capsys.readouterr().out.count("ms/frame, median") == 2


@pytest.mark.slow
def test_a_missing_clone_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="is not a clone of the PyTorch repository"):
        measure_case(replace(SMALL, heads=("camera", "depth", "points")), 2, tmp_path)
