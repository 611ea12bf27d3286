"""Policies and what protects tokens from them: each against a NumPy statement, and at work in streams of the tiny model.

Frames of the unit tests have 7 tokens, the first two special. Streams are those of `streaming`: 11 tokens a frame.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import redundancy
from scipy.stats import kstest
from streaming import BOUNDED, TOKENS, assert_close, feed, live_tokens, start

from ivggt_jax import CacheConfig, Model, infer_clip
from ivggt_jax.kernels.attention import attend
from ivggt_jax.memory.budgets import adaptive_total, layer_budgets
from ivggt_jax.memory.cache import KVCache
from ivggt_jax.memory.eviction import Eviction, anchor_stride, protected
from ivggt_jax.memory.origin import Origin, number_tokens, period, places_after
from ivggt_jax.memory.policies import POLICIES, Policy, Storing
from ivggt_jax.memory.stored_numbers import add_attention, store_residual
from ivggt_jax.model.rope import rotation_table

P, SPECIAL, BATCH, SLOTS, HEADS, DIM = 7, 2, 3, 64, 2, 4
LENGTH = np.array([SLOTS, 40, 2 * P])


@pytest.fixture(scope="module")
def cache() -> dict[str, np.ndarray]:
    """A layer of three streams (seed 0): the first frame, then a random choice of 30 frames' tokens, NaN where nothing lives."""
    draw = np.random.default_rng(0)
    number = np.empty((BATCH, SLOTS, HEADS), np.int32)
    for b, h in np.ndindex(BATCH, HEADS):
        number[b, :P, h] = np.arange(P)
        number[b, P:, h] = draw.choice(np.arange(P, 30 * P), SLOTS - P, replace=False)
    live = np.arange(SLOTS) < LENGTH[:, None]
    keys = draw.normal(0.4, 1, (BATCH, SLOTS, HEADS, DIM)).astype(np.float32)
    keys[~live] = np.nan
    extra = draw.exponential(1, number.shape).astype(np.float32)
    extra[draw.random(number.shape) < 0.2] = -1
    candidates = np.repeat((live & (np.arange(SLOTS) >= P))[:, None], HEADS, 1)
    return {"keys": keys, "live": live, "candidates": candidates, "number": number, "extra": extra}


def measured(cache: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A policy's redundancies, compiled; NaN where there is no candidate."""
    found = jax.jit(eviction(cache, name).redundancy)(*arguments(cache))
    assert found.dtype == jnp.float32
    return np.where(cache["candidates"], found, np.nan)


def eviction(cache: dict[str, np.ndarray], policy: str | Policy) -> Eviction:
    """By a policy, when the newest frame of each stream has come."""
    return Eviction(CacheConfig(policy=policy), P, SPECIAL, jnp.asarray(newest(cache)))


def newest(cache: dict[str, np.ndarray]) -> np.ndarray:
    """The number of each stream's newest frame."""
    return np.array([cache["number"][b, :length].max() // P for b, length in enumerate(LENGTH)])


def arguments(cache: dict[str, np.ndarray]) -> tuple[KVCache, int, jax.Array, jax.Array]:
    """What `Eviction.redundancy` takes: a cache of one layer, that layer, live slots and candidates."""
    keys, number, extra = (jnp.asarray(cache[field])[None] for field in ("keys", "number", "extra"))
    whole = KVCache(keys=keys, values=keys, origin=number, length=jnp.asarray(LENGTH)[None], extra=extra)
    return whole, 0, jnp.asarray(cache["live"]), jnp.asarray(cache["candidates"])


def stated(cache: dict[str, np.ndarray], of_head) -> np.ndarray:
    """Redundancies from a statement about one head's candidates: (keys [N,D], frame, token, extra [N], newest) → [N]."""
    expected = np.full((BATCH, HEADS, SLOTS), np.nan)
    for b, h in np.ndindex(BATCH, HEADS):
        inside = np.flatnonzero(cache["candidates"][b, h])
        number = cache["number"][b, inside, h]
        numbers = (number // P, number % P, cache["extra"][b, inside, h], newest(cache)[b])
        expected[b, h, inside] = of_head(cache["keys"][b, inside, h].astype(np.float64), *numbers)
    return expected


def by_frame(keys, frame, token, extra, newest):
    cosine = redundancy(keys)
    return [np.mean(cosine[frame == f]) for f in frame]


def falling(keys, frame, token, extra, newest):
    return [0 if e < 0 else 1 / (1 + e) for e in extra]


STATEMENTS = {
    "diversity": lambda keys, *_: redundancy(keys),
    "segment": lambda keys, frame, token, extra, newest: (newest - frame) / newest,
    "local_global": lambda keys, frame, token, extra, newest: (
        (newest - frame) / newest * np.where(token < SPECIAL, SPECIAL / P, 1)
    ),
    "frame": by_frame,
    "residual": falling,
    "attention": falling,
}


def test_a_policy_s_own_ranks_leave_its_layer_a_score(cache):
    """The layer's score is the mean of the finite redundancies, whatever −∞ and NaN say of special tokens."""
    for special in (0.9, -np.inf, np.nan):

        def ranked(keys, live, candidates, origin, extra, special=special):
            return jnp.where(origin.special, special, 0.9).transpose(0, 2, 1)

        budget, score = jnp.full(BATCH, P + 1), jnp.zeros(BATCH)
        _, score = eviction(cache, ranked).evict(arguments(cache)[0], 0, budget, score)
        np.testing.assert_allclose(score, 0.9, rtol=1e-6)


@pytest.mark.parametrize("name", STATEMENTS)
def test_policies_are_what_they_say(cache, name):
    """1e-6."""
    np.testing.assert_allclose(measured(cache, name), stated(cache, STATEMENTS[name]), rtol=0, atol=1e-6)


def test_every_policy_is_stated():
    assert POLICIES.keys() == STATEMENTS.keys() | {"random"}


def test_tokens_of_a_frame_are_equally_redundant_to_the_last_digit(cache):
    """So that eviction takes whole frames."""
    found = measured(cache, "frame")[0, 0, P:]
    frames = cache["number"][0, P:, 0] // P
    assert max(np.ptp(found[frames == frame]) for frame in frames) == 0
    assert len(np.unique(found)) == len(np.unique(frames))


def test_random_is_uniform_repeats_and_changes_with_the_frame(cache):
    """Kolmogorov-Smirnov, p > 0.01; streams at the same frame draw the same, whatever else they hold."""
    found = measured(cache, "random")
    np.testing.assert_array_equal(found, measured(cache, "random"))
    assert kstest(found[np.isfinite(found)], "uniform").pvalue > 0.01
    later = {**cache, "number": cache["number"] + P * np.array([0, 1, 0])[:, None, None]}
    changed = measured(later, "random") != found
    assert not changed[0][cache["candidates"][0]].any()
    assert changed[1][cache["candidates"][1]].all()


@pytest.mark.parametrize(
    ("policy", "shape"),
    [
        (lambda keys, live, candidates, origin, extra: keys[..., 0], r"\[3, 64, 2\]"),
        (lambda keys, live, candidates, origin, extra: 0.5, r"\[\]"),
    ],
    ids=["other axes", "a number"],
)
def test_a_policy_of_a_wrong_shape_is_refused(cache, policy, shape):
    with pytest.raises(ValueError, match=rf"\[3, 2, 64\], not {shape}"):
        eviction(cache, policy).redundancy(*arguments(cache))


@pytest.mark.parametrize("anchors", [2, 3, 5])
def test_anchors_are_spread_evenly_and_never_return(anchors):
    """Over 600 frames: at most so many, at least half, the first among them; each was one since it came."""
    strides = np.asarray(anchor_stride(jnp.arange(600), anchors))
    before: set[int] = set()
    for frame, stride in enumerate(strides):
        now = set(range(0, frame + 1, int(stride)))
        assert min(frame + 1, (anchors + 1) // 2) <= len(now) <= anchors
        assert now <= before | {frame}
        before = now


@pytest.mark.parametrize(("anchors", "special"), [(1, True), (3, False), (3, True), (0, True)])
def test_protected_tokens(cache, anchors, special):
    """Against a statement token by token; frames 29 and 30, budgets of 3, 5 and 8 frames."""
    frame, budget = np.array([29, 30, 29]), np.array([3, 5, 8]) * P

    @jax.jit
    def marked(number, frame, budget):
        return protected(Origin(number, frame, P, SPECIAL), budget, anchors, special)

    found = np.asarray(marked(cache["number"], frame, budget))
    for b, h, slot in np.ndindex(found.shape):
        number = int(cache["number"][b, slot, h])
        window = max(0, budget[b] - anchors * P) // 2 // SPECIAL
        is_anchor = anchors > 1 and number // P % 16 == 0
        is_special = special and number % P < SPECIAL and number // P > frame[b] - window
        assert found[b, h, slot] == (is_anchor or is_special)


def test_attention_received():
    """Added up over two calls, the −1 of new tokens replaced; against weights in float64 (1e-5)."""
    draw = np.random.default_rng(1)
    shape = (2, BATCH, SLOTS, HEADS)
    keys = draw.normal(size=(*shape, DIM)).astype(np.float32)
    length = np.stack([LENGTH - 3, LENGTH]).astype(np.int32)
    keys[1, np.arange(SLOTS) >= LENGTH[:, None]] = np.nan
    before = draw.exponential(1, shape).astype(np.float32)
    before[..., -20:, :] = -1
    cache = KVCache(*(jnp.asarray(x) for x in (keys, keys, np.zeros(shape, np.int32), length, before)))
    queries = draw.normal(size=(2, BATCH, 5, HEADS, DIM)).astype(np.float32)
    after = cache
    for query in queries:
        after = jax.jit(add_attention)(after, 1, query, LENGTH)
    np.testing.assert_array_equal(after.extra[0], before[0])
    for b, h in np.ndindex(BATCH, HEADS):
        scores = queries[:, b, :, h].reshape(-1, DIM).astype(np.float64) @ keys[1, b, : LENGTH[b], h].T / np.sqrt(DIM)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        mass = (weights / weights.sum(1, keepdims=True)).sum(0)
        expected = np.maximum(before[1, b, : LENGTH[b], h], 0) + mass
        np.testing.assert_allclose(after.extra[1, b, : LENGTH[b], h], expected, rtol=0, atol=1e-5)


def test_residual_finds_the_newest_frame_s_tokens(cache):
    """Wherever they are, in every head; all others keep their number."""
    draw = np.random.default_rng(2)
    tokens, change = draw.normal(size=(2, BATCH, P, 6)).astype(np.float32)
    frame = cache["number"].max((1, 2)) // P
    shape = (1, *cache["number"].shape)
    before = KVCache(
        keys=jnp.zeros((*shape, 1)), values=jnp.zeros((*shape, 1)), origin=jnp.asarray(cache["number"][None]),
        length=jnp.asarray(LENGTH[None]), extra=jnp.asarray(cache["extra"][None]),
    )  # fmt: skip
    found = np.asarray(jax.jit(partial(store_residual, frames=1))(before, 0, tokens, change, P * frame).extra[0])
    for b, slot, h in np.ndindex(found.shape):
        number = cache["number"][b, slot, h]
        expected = cache["extra"][b, slot, h]
        if number // P == frame[b]:
            expected = np.linalg.norm(change[b, number % P]) / np.linalg.norm(tokens[b, number % P])
        assert found[b, slot, h] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tokens", [7, 1041, 2**11])
def test_no_stream_is_too_long_for_the_numbers(tokens):
    """Frames up to 2³¹ − 1, up to a period old, in the middle of which the numbers begin again: frame, token and place."""
    largest = 2**31 - 1
    for newest in (5, period(tokens) + 1, 4 * period(tokens) - 1, largest):
        frames = np.unique(np.clip([newest - period(tokens) + 1, newest - 7, newest - 1, newest], 0, None))
        numbers = number_tokens(jnp.asarray(frames, jnp.int32), 1, tokens)
        origin = Origin(numbers[None], jnp.asarray([newest], jnp.int32), tokens, SPECIAL)
        np.testing.assert_array_equal(origin.frame[0], np.broadcast_to(frames[:, None], numbers.shape))
        np.testing.assert_array_equal(origin.token[0], np.broadcast_to(np.arange(tokens), numbers.shape))
    first = jnp.asarray([period(tokens) - 1], jnp.int32)
    numbers = number_tokens(first, 2, tokens)
    np.testing.assert_array_equal(places_after(numbers, numbers[:, :1], tokens)[0], np.arange(2 * tokens))


@pytest.mark.parametrize("policy", ["segment", "local_global", "residual"])
def test_streams_go_on_as_before_where_the_numbers_begin_again(tiny: Model, videos: np.ndarray, policy: str):
    """Twelve frames that end at frame 100, and twelve with the boundary in their middle: the same tokens stay."""
    cache = replace(BOUNDED, policy=policy, anchor_frames=0)
    kept = []
    for first in (100, 2 * period(TOKENS) - 6):
        state = start(tiny, cache, batch=1, heads=())
        state = replace(state, frame=jnp.full_like(state.frame, first))
        state, _ = feed(tiny, state, videos[:12, :1])
        size = period(TOKENS) * TOKENS
        kept.append(
            [[sorted((n - first * TOKENS) % size for n in head) for head in layer] for layer in live_tokens(state, 0)]
        )
    assert kept[0] == kept[1]


def test_adaptive_total():
    """Halfway at a mean score of one half; scores of other policies are cut to [0,1], and NaN says nothing."""
    scores = jnp.asarray([[0, 0], [1, 1], [0.25, 0.75], [-3, 5], [np.nan, 1]])
    np.testing.assert_allclose(adaptive_total(scores, 100, 200), [200, 100, 150, 150, 150])
    budgets, _ = layer_budgets(scores, adaptive_total(scores, 100, 200), float("inf"), 11, 200)
    np.testing.assert_array_equal(budgets, [[100, 100], [50, 50], [75, 75], [75, 75], [75, 75]])


def test_segment_keeps_the_first_frame_and_the_last_two(tiny: Model, videos: np.ndarray):
    """Budgets are equal, because all layers have the same score."""
    state, _ = feed(tiny, start(tiny, replace(BOUNDED, policy="segment"), batch=1, heads=()), videos[:9, :1])
    kept = [*range(TOKENS), *range(7 * TOKENS, 9 * TOKENS)]
    assert live_tokens(state, 0) == [[kept] * 4] * 4


def test_protection_in_a_stream(tiny: Model, videos: np.ndarray):
    """Random eviction with three anchors, special tokens kept and a moving total, over 16 frames; NaN in the second stream."""
    cache = CacheConfig(
        total_budget=4 * 8 * TOKENS, least_budget=4 * 5 * TOKENS, policy="random", anchor_frames=3,
        protect_special=True, temperature=float("inf"),
    )  # fmt: skip
    frames = videos[:16, :2].copy()
    frames[5, 1] = np.nan
    state, _ = feed(tiny, start(tiny, cache, batch=2, heads=()), frames)
    budgets, lengths = np.asarray(state.budgets), np.asarray(state.lengths)
    np.testing.assert_array_equal(lengths, budgets)
    assert (budgets == budgets[:, :1]).all()
    assert 4 * 5 * TOKENS < budgets[0].sum() < 4 * 8 * TOKENS
    window = (budgets[0, 0] - 3 * TOKENS) // 2 // 5
    wanted = {frame * TOKENS + token for frame in (0, 8) for token in range(TOKENS)}
    wanted |= {frame * TOKENS + token for frame in range(16 - window, 16) for token in range(5)}
    for layer in live_tokens(state, 0):
        assert all(wanted <= set(head) for head in layer)


def test_eviction_after_attention(tiny: Model, videos: np.ndarray):
    """With room for the first frame alone every later one sees that and itself, as if it were the second."""
    cache = CacheConfig(total_budget=4 * TOKENS, evict_after_attention=True)
    _, found = feed(tiny, start(tiny, cache, batch=1, heads=()), videos[:4, :1])
    pair = infer_clip(tiny, videos[None, [0, 3], 0], "causal", heads=(), features=True)
    assert_close(found.features[3], pair.features[:, 1])


def oldest_patches(keys, live, candidates, origin, extra):
    return jnp.where(origin.special, 0, 1 / (1 + origin.frame)).transpose(0, 2, 1)


def test_a_function_as_policy_and_no_anchor(tiny: Model, videos: np.ndarray):
    """Patches go from the oldest frame on, the first included. Of 33 tokens, 25 are special, 8 the last patches."""
    cache = replace(BOUNDED, policy=oldest_patches, anchor_frames=0)
    assert {cache: 1}[replace(BOUNDED, policy=oldest_patches, anchor_frames=0)] == 1
    state, _ = feed(tiny, start(tiny, cache, batch=1, heads=()), videos[:5, :1])
    special = {frame * TOKENS + token for frame in range(5) for token in range(5)}
    for layer in live_tokens(state, 0):
        for head in layer:
            assert special <= set(head)
            assert [token // TOKENS for token in head if token not in special] == [3] * 2 + [4] * 6


def test_the_stored_residual_is_the_change_of_the_mlp(tiny: Model, videos: np.ndarray):
    """Of the first frame in the first two layers, block by block (1e-5); the default policy stores nothing."""
    state, _ = feed(tiny, start(tiny, replace(BOUNDED, policy="residual"), batch=1, heads=()), videos[:1, :1])
    aggregator, config = tiny.network.aggregator, tiny.config
    rotation = rotation_table(2, 3, 5, config.head_dim, config.rope_base)
    x = aggregator.tokens(aggregator.encoder(jnp.asarray(videos[0, :1]))[:, None], jnp.ones((1, 1), bool))[:, 0]
    for layer in range(2):
        frame_block, global_block = (
            jax.tree.map(lambda p, layer=layer: p[layer], blocks)
            for blocks in (aggregator.frame_blocks, aggregator.global_blocks)
        )
        x = frame_block(x, rotation)
        seen = x + global_block.scale1 * global_block.out(attend(*global_block.project(x, rotation)).reshape(x.shape))
        x = seen + global_block.scale2 * global_block.mlp(global_block.norm2(seen))
        expected = np.linalg.norm(x - seen, axis=-1) / np.linalg.norm(seen, axis=-1)
        np.testing.assert_allclose(
            state.cache.extra[layer, :, :TOKENS], np.repeat(expected[..., None], 4, -1), rtol=0, atol=1e-5
        )
    assert start(tiny, batch=1).cache.extra is None


def test_attention_in_a_stream(tiny: Model, videos: np.ndarray):
    """A frame's 11 queries give each layer and head 11 of mass; the anchor keeps what it got, and new tokens have theirs."""
    state, _ = feed(tiny, start(tiny, replace(BOUNDED, policy="attention"), batch=1, heads=()), videos[:3, :1])
    np.testing.assert_allclose(state.cache.extra[:, 0, : 3 * TOKENS].sum(1), np.full((4, 4), 3 * TOKENS), rtol=1e-5)
    state, _ = feed(tiny, state, videos[3:6, :1])
    live = np.asarray(state.lengths)[0]
    for layer, count in enumerate(live):
        numbers = np.asarray(state.cache.extra[layer, 0, :count])
        assert numbers.min() > 0
        assert (numbers.sum(0) <= 6 * TOKENS + 1e-3).all()


@pytest.mark.parametrize("arguments", [(oldest_patches, "attn"), ("diversity", "attention")])
def test_a_storing_policy_that_cannot_be(arguments):
    with pytest.raises(ValueError, match=f"attention, residual, not .*{arguments[1]}"):
        Storing(*arguments)


def minus_infinity(keys, live, candidates, origin, extra):
    return jnp.where(origin.frame % 2 == 0, -jnp.inf, 0.5).transpose(0, 2, 1)


@pytest.mark.parametrize("anchors", [1, 2])
def test_what_a_policy_never_drops_goes_after_the_rest_but_before_the_anchors(tiny: Model, videos: np.ndarray, anchors):
    """Three frames' room; of seven frames the even ones are −∞. The first frame stays, and with two anchors the fifth."""
    cache = replace(BOUNDED, policy=minus_infinity, anchor_frames=anchors)
    state, _ = feed(tiny, start(tiny, cache, batch=1, heads=()), videos[:7, :1])
    stride = int(anchor_stride(jnp.array([6]), anchors)[0]) if anchors > 1 else 7
    anchor = {frame * TOKENS + token for frame in range(0, 7, stride) for token in range(TOKENS)}
    for layer in live_tokens(state, 0):
        assert all(anchor <= set(head) for head in layer)


def test_a_storing_policy_of_one_s_own(tiny: Model):
    cache = replace(BOUNDED, policy=Storing(oldest_patches, "attention"))
    assert start(tiny, cache, batch=1).cache.extra.shape == start(tiny, cache, batch=1).cache.origin.shape


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"least_budget": 0}, "least_budget.*100.*0"),
        ({"least_budget": 101}, "least_budget.*100.*101"),
        ({"total_budget": None, "max_frames": 2, "least_budget": 5}, "least_budget.*None.*5"),
        ({"anchor_frames": -1}, "anchor_frames.*-1"),
        ({"temperature": float("nan")}, "temperature.*nan"),
    ],
)
def test_options_that_contradict_themselves(fields, numbers):
    with pytest.raises(ValueError, match=numbers):
        CacheConfig(**{"total_budget": 100, **fields})


@pytest.mark.parametrize("fields", [{"anchor_frames": 4}, {"least_budget": 43}])
def test_a_budget_below_the_anchors(tiny: Model, fields):
    with pytest.raises(ValueError, match="11 tokens × 4 layers|44 tokens × 4 layers"):
        start(tiny, replace(BOUNDED, **fields))
