"""How large a cache may be: amounts of memory as people write them, and what a limit makes of the default cache. Nothing is run."""

from dataclasses import replace

import jax
import pytest

from ivggt_jax import CacheConfig, Model, ModelConfig, infer, init_stream
from ivggt_jax.inference.options import InferConfig, MemoryOptions
from ivggt_jax.model.heads import DEFAULT_HEADS
from ivggt_jax.model.parameters import abstract_model
from ivggt_jax.runs import fitting
from ivggt_jax.runs.fitting import (
    default_budget,
    fitting_cache,
    limited_cache,
    parse_memory,
    plan_cache,
    rounded_length,
    step_bytes,
    stream_bytes,
    weights_bytes,
)
from ivggt_jax.runs.room import Room, Share
from ivggt_jax.sources import SourceConfig

SIZE = 392, 518
WHOLE = abstract_model(ModelConfig.vggt_1b(), "float32")
FULL = WHOLE.only_heads(tuple(head for head in DEFAULT_HEADS if head in WHOLE.config.predicts))
WEIGHTS = weights_bytes(FULL)


@pytest.mark.parametrize(
    ("text", "count"), [("8GB", 8 * 10**9), ("7.5 GiB", 7.5 * 2**30), ("500MB", 500 * 10**6), ("1MiB", 2**20)]
)
def test_amounts(text, count):
    assert parse_memory(text) == count


@pytest.mark.parametrize("text", ["8", "GB", "8gb", "-1GB", "0GB", "8 TB", "8,5GB"])
def test_other_amounts_are_refused(text):
    with pytest.raises(ValueError, match="an amount of memory is like 8GB"):
        parse_memory(text)


def test_weights():
    """The trunk in half precision takes half; heads stay float32."""
    assert weights_bytes(WHOLE) == 1_256_537_516 * 4
    trunk = sum(x.size for x in jax.tree.leaves(FULL.params["aggregator"]))
    assert weights_bytes(abstract_model(WHOLE.config, "bfloat16")) == weights_bytes(WHOLE) - 2 * trunk


def test_heads_have_buffers_of_their_own():
    """The camera head a ring of 512 frames, four layers and four iterations of keys and values, the tracker a window of maps."""
    sizes = {
        heads: stream_bytes(WHOLE.only_heads(heads), CacheConfig(), *SIZE)
        for heads in (("depth",), ("camera", "depth"))
    }
    assert sizes["camera", "depth"] - sizes["depth",] == 512 * 4 * 4 * 2 * 2048 * 4
    window = stream_bytes(WHOLE, CacheConfig(), *SIZE) - sizes["camera", "depth"]
    assert window == pytest.approx(8 * (392 // 2) * (518 // 2) * 128 * 4, rel=0.01)


def test_a_lowered_budget_fits_and_is_not_lower_than_it_must():
    lowered = fitting_cache(FULL, CacheConfig(), *SIZE, 6e9)
    assert 0.98 * 6e9 < stream_bytes(FULL, lowered, *SIZE) <= 6e9
    assert fitting_cache(FULL, CacheConfig(), *SIZE, 1e12) == CacheConfig()


def test_a_lowered_budget_has_room_for_all_anchors():
    anchors = CacheConfig(anchor_frames=10)
    assert fitting_cache(FULL, anchors, *SIZE, 4e9).total_budget > 10 * 1041 * 24
    assert fitting_cache(FULL, anchors, *SIZE, 1e9).total_budget == 10 * 1041 * 24


@pytest.mark.parametrize(
    ("limit", "dtype", "whole"), [(30 * 10**9, None, True), (12 * 10**9, "int8", True), (8 * 10**9, "int8", False)]
)
def test_a_limit_takes_precision_before_tokens(limit, dtype, whole):
    cache = limited_cache(FULL, CacheConfig(), *SIZE, limit, fixed=False)
    assert cache.dtype == dtype and (cache.total_budget == 1_200_000) == whole
    assert stream_bytes(FULL, cache, *SIZE) + WEIGHTS + step_bytes(cache, *SIZE) <= limit


@pytest.mark.parametrize(("frames", "counted"), [(1, 350), (2, 520), (4, 936), (8, 1226)])
def test_frames_that_share_a_pass_are_counted(frames, counted):
    """The temporaries of the compiled step in MB, full model, float32."""
    cache = CacheConfig(frames_per_step=frames)
    assert step_bytes(cache, *SIZE) > counted * 10**6
    limited = limited_cache(FULL, cache, *SIZE, 8 * 10**9, fixed=False)
    assert stream_bytes(FULL, limited, *SIZE) + WEIGHTS + counted * 10**6 <= 8 * 10**9


def test_a_limit_below_the_least_says_what_takes_how_much():
    with pytest.raises(ValueError, match=r"5.40 GB are too little: weights take 4.76, .* cache of 24,\d+ tokens"):
        limited_cache(FULL, CacheConfig(), *SIZE, 5_400_000_000, fixed=False)
    with pytest.raises(ValueError, match="cache of 1,200,000 tokens"):
        limited_cache(FULL, CacheConfig(), *SIZE, 8 * 10**9, fixed=True)


@pytest.mark.parametrize(
    ("saves", "precision", "limit", "expected"),
    [
        (True, "auto", None, None),
        (True, "auto", "1GB", None),
        (True, "auto", "20MB", "bfloat16"),
        (True, "bfloat16", None, "bfloat16"),
        (False, "auto", "20MB", None),
        (False, "bfloat16", None, "bfloat16"),
    ],
)
def test_a_limit_takes_bfloat16_where_that_saves_memory(saves, precision, limit, expected, monkeypatch, capsys):
    """The demo model's weights are more than 10 MB. With JAX before 0.11 bfloat16 saves nothing on a CPU, and says so."""
    monkeypatch.setattr(infer, "computes_bfloat16", lambda: saves)
    config = InferConfig(
        source=SourceConfig(frames="frames"), memory=MemoryOptions(precision=precision, max_memory=limit)
    )
    assert infer._precision(config) == expected
    assert ("takes more memory" in capsys.readouterr().err) == (precision == "bfloat16" and not saves)


@pytest.mark.parametrize(
    ("config", "size", "expected"),
    [
        (ModelConfig.vggt_1b(), SIZE, 1_200_000),
        (ModelConfig.vggt_1b(), (518, 518), 1_583_862),
        (ModelConfig.vggt_1b(), (14, 14), 6_917),
        (ModelConfig.demo(), (84, 112), 15_274),
        (ModelConfig.tiny(), (56, 70), 4_804),
    ],
)
def test_the_default_budget_is_48_frames(config, size, expected):
    """A little more than 48: what 1,200,000 tokens are to frames of 1,041 tokens in 24 layers."""
    budget = default_budget(config, *size)
    assert budget == expected
    assert 48 <= budget / (config.tokens_per_frame(*size) * config.depth) < 48.1


def test_a_presets_budget_is_of_the_full_model_at_its_size(tiny: Model):
    """500,000 tokens are 20 frames a layer, whatever the model."""
    config = ModelConfig.tiny()
    assert default_budget(config, 56, 70, 500_000) == pytest.approx(20 * 100, rel=0.01)
    planned = plan_cache(tiny, CacheConfig.preset("small"), 56, 70, None, fixed=False)
    assert planned == replace(CacheConfig.preset("small"), total_budget=default_budget(config, 56, 70, 500_000))
    with pytest.raises(ValueError, match="unknown preset 'quick'; known: exact, fast, small"):
        CacheConfig.preset("quick")


def test_lengths_are_rounded_up_by_a_half_at_most():
    lengths = [rounded_length(frames) for frames in range(1, 10_001)]
    assert all(frames <= length <= max(frames, 1.5 * (frames - 1)) for frames, length in enumerate(lengths, 1))
    assert lengths == sorted(lengths) and len(set(lengths)) == 27


@pytest.mark.parametrize(
    ("config", "size", "programs"), [(ModelConfig.vggt_1b(), SIZE, 12), (ModelConfig.demo(), (84, 112), 11)]
)
def test_folders_of_2_to_100_images_share_a_few_programs(config, size, programs):
    """A program for each number of slots: without rounding there were 72 for the full model and 99 for the demo's."""
    model = abstract_model(config, "float32", ("camera", "depth"))
    slots, caches = set(), set()
    for length in range(2, 101):
        cache = plan_cache(model, CacheConfig(max_frames=length), *size, "200GB", fixed=False)
        state = jax.eval_shape(
            lambda cache=cache: init_stream(model, cache, height=size[0], width=size[1], heads=model.config.predicts)
        )
        slots.add(state.cache.keys.shape[2])
        caches.add(cache)
    assert len(slots) == programs and len(caches) == 13, "nor is a step traced anew in one process"


def test_a_length_is_not_rounded_where_that_would_cost_tokens():
    """33 frames take 6.9 GB and would take 9.8 as 48."""
    cache = CacheConfig(max_frames=33)
    limit = WEIGHTS + step_bytes(cache, *SIZE) + 7_600_000_000
    planned = plan_cache(FULL, cache, *SIZE, f"{limit / 1e6:.0f}MB", fixed=False)
    assert (planned.max_frames, planned.total_budget, planned.dtype) == (33, 1_200_000, None)
    planned = plan_cache(FULL, cache, *SIZE, "40GB", fixed=False)
    assert (planned.max_frames, planned.dtype) == (48, None)
    assert plan_cache(FULL, CacheConfig(), *SIZE, "40GB", fixed=False) == CacheConfig()


@pytest.mark.parametrize("free", [7, 8, 10, 12, 16, 20, 40])
def test_the_default_plan_lies_within_what_is_free(free, monkeypatch):
    """GB on a CPU, where the weights are mapped and take of it when they are read."""
    monkeypatch.setattr(fitting, "mapped_bytes", lambda arrays: WEIGHTS)
    monkeypatch.setattr(fitting, "free_memory", lambda mapped: Room(free * 10**9, "the machine's memory").less(mapped))
    model = Model(FULL.config, {**FULL.params})
    planned = plan_cache(model, CacheConfig(), *SIZE, None, fixed=False)
    needed = WEIGHTS + stream_bytes(FULL, planned, *SIZE) + step_bytes(planned, *SIZE)
    assert needed < free * 10**9
    assert (planned.total_budget == 1_200_000) == (free == 40)


def test_what_cannot_fit_is_refused_before_it_is_tried(monkeypatch):
    monkeypatch.setattr(fitting, "mapped_bytes", lambda arrays: WEIGHTS)
    room = Room(5_500_000_000, "a control group's limit of 6.0 GB")
    monkeypatch.setattr(fitting, "free_memory", lambda mapped: room.less(mapped))
    with pytest.raises(ValueError, match=r"a control group's limit of 6.0 GB leaves 0.7 GB beside the weights"):
        plan_cache(FULL, CacheConfig(), *SIZE, None, fixed=False)
    assert plan_cache(FULL, CacheConfig(total_budget=30_000), *SIZE, None, fixed=True).total_budget == 30_000


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_that_share_the_memory_have_room_for_all(processes, monkeypatch):
    """Of 30 GB at their start, whatever is free when they plan; mapped weights are counted once."""
    monkeypatch.setattr(fitting, "mapped_bytes", lambda arrays: WEIGHTS)
    monkeypatch.setattr(fitting, "free_memory", lambda mapped: Room(30 * 10**9, "the machine's memory").less(mapped))
    share = Share(Room(30 * 10**9, "the machine's memory"), processes)
    planned = plan_cache(FULL, CacheConfig(), *SIZE, share, fixed=False)
    needed = stream_bytes(FULL, planned, *SIZE) + step_bytes(planned, *SIZE) + fitting.PROCESS
    assert WEIGHTS + processes * needed <= 30 * 10**9
    assert planned.total_budget >= 1_200_000 * 0.4 / processes, "and none is left with next to nothing"
    with pytest.raises(ValueError, match="memory, shared by 20 processes, leaves 1.3 GB"):
        plan_cache(FULL, CacheConfig(), *SIZE, Share(share.room, 20), fixed=False)
