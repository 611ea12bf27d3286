"""How large a cache may be: amounts of memory as people write them, and what a limit makes of the default cache. Nothing is run."""

import jax
import pytest

from ivggt_jax import CacheConfig, ModelConfig, infer
from ivggt_jax.model.parameters import abstract_model
from ivggt_jax.model.vggt import DEFAULT_HEADS
from ivggt_jax.runs.fitting import (
    fitting_cache,
    limited_cache,
    parse_memory,
    step_bytes,
    stream_bytes,
    weights_bytes,
)

SIZE = 392, 518
WHOLE = abstract_model(ModelConfig.vggt_1b(), "float32")
FULL = WHOLE.only_heads(DEFAULT_HEADS)
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
    assert weights_bytes(abstract_model(FULL.config, "bfloat16")) == weights_bytes(WHOLE) - 2 * trunk


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
    config = infer.InferConfig(source=infer.SourceConfig(frames="frames"), precision=precision, max_memory=limit)
    assert infer._precision(config) == expected
    assert ("takes more memory" in capsys.readouterr().err) == (precision == "bfloat16" and not saves)
