"""Guidance of the trunk: correspondences against ray-cast tracks, its two losses against NumPy, and the weights to start from.

Clips of noise from `small_training` (4 clips, 3 frames of 28×28, four patches each) and two rendered rooms of 56×42.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import SMALL, clips, random_model

from ivggt_jax import Model, synthetic
from ivggt_jax.model.parameters import flatten
from ivggt_jax.model.rope import rotation_table
from ivggt_jax.train.distill import Mode
from ivggt_jax.train.losses import LossConfig, guidance
from ivggt_jax.train.losses.guidance import correspondences
from ivggt_jax.train.start import fresh_model

PATCH, HEIGHT, WIDTH, FRAMES = 14, 42, 56, 3
TOLERANCE = 1e-5
"""Of float32 sums over some hundred terms."""


@pytest.fixture(scope="module")
def batch() -> dict[str, jax.Array]:
    return jax.tree.map(jnp.asarray, clips(0))


@pytest.fixture(scope="module")
def outputs() -> jax.Array:
    """Layer outputs [layer,B,S,P,2·width] that no network made."""
    tokens = SMALL.tokens_per_frame(28, 28)
    return jax.random.normal(jax.random.key(3), (4, 4, 3, tokens, 2 * SMALL.width))


@pytest.mark.slow
def test_correspondences_are_the_tracks_of_patch_middles() -> None:
    """Positions to 0.01 patches; rays decide otherwise than the depth of the nearest pixel about few points at edges."""
    middles = np.stack(np.meshgrid(np.arange(7, WIDTH, PATCH), np.arange(7, HEIGHT, PATCH)), axis=-1).reshape(-1, 2)
    agreed = []
    for seed in (1, 2):
        scene_key, path_key, *_ = jax.random.split(jax.random.key(seed), 4)
        clip = synthetic.clip(jax.random.key(seed), FRAMES, HEIGHT, WIDTH, speed=6.0)
        batch = {
            name: getattr(clip, name)[None] for name in ("depth", "valid", "points", "cam_from_world", "intrinsics")
        }
        found = jax.tree.map(lambda x: np.asarray(x[0]), correspondences(batch, PATCH))
        scene = synthetic.make_scene(scene_key, "room")
        cameras = synthetic.camera_path(path_key, scene, FRAMES, speed=6.0)
        tracks, visible = synthetic.tracks(
            scene, jnp.asarray(middles, jnp.float32), cameras, clip.intrinsics[0], HEIGHT, WIDTH
        )
        both = np.asarray(visible) & found.seen[0]
        assert both[1:].mean() > 0.4, "most of a room stays in view"
        np.testing.assert_allclose(found.place[0][both], (np.asarray(tracks)[both] + 0.5) / PATCH, atol=0.01)
        assert np.abs(np.diff(np.asarray(tracks), axis=0))[both[1:]].max() > 1, "nothing moves"
        agreed.append(np.asarray(visible) == found.seen[0])
        distance = np.linalg.norm(batch["points"][0], axis=-1)[batch["valid"][0]].mean()
        middle = np.asarray(batch["points"][0])[:, 7::PATCH, 7::PATCH].reshape(FRAMES, -1, 3)
        np.testing.assert_allclose(found.points[found.known], middle[found.known] / distance, rtol=1e-4)
    assert np.mean(agreed) > 0.9


def test_what_is_not_valid_has_no_influence(batch: dict[str, jax.Array], outputs: jax.Array) -> None:
    model = random_model(0)
    spoilt = {
        "depth": jnp.where(batch["valid"], batch["depth"], jnp.nan),
        "points": jnp.where(batch["valid"][..., None], batch["points"], jnp.nan),
    }
    expected = guidance(model, outputs, batch, "offline")

    def both(outputs: jax.Array) -> jax.Array:
        return sum(guidance(model, outputs, batch | spoilt, "offline").values(), jnp.zeros(()))

    found, gradient = jax.value_and_grad(both)(outputs)
    np.testing.assert_allclose(found, sum(expected.values()), rtol=TOLERANCE)
    assert np.isfinite(gradient).all() and np.any(gradient)


def test_what_moves_is_nowhere_else(batch: dict[str, jax.Array]) -> None:
    """Depth and cameras tell where the world is in another frame, and not where a body is: its patches are not looked for."""
    plain = correspondences(batch, PATCH)
    row, column = divmod(int(np.argmax(plain.seen[0, 0, 0])), 2)
    moving = np.zeros(batch["valid"].shape, bool)
    moving[0, 0, PATCH * row :, PATCH * column :][:PATCH, :PATCH] = True
    found = correspondences(batch | {"moving": jnp.asarray(moving)}, PATCH)
    expected = np.array(plain.seen)
    assert expected[0, 0, 0, 2 * row + column]
    expected[0, 0, :, 2 * row + column] = False
    np.testing.assert_array_equal(found.seen, expected)
    np.testing.assert_array_equal(found.known, plain.known)


def test_a_clip_without_valid_depth_teaches_nothing(batch: dict[str, jax.Array], outputs: jax.Array) -> None:
    model = random_model(0)
    unknown = batch | {"valid": batch["valid"].at[1].set(False)}

    def both(outputs: jax.Array) -> jax.Array:
        return sum(guidance(model, outputs, unknown, "offline").values(), jnp.zeros(()))

    gradient = np.asarray(jax.grad(both)(outputs))
    assert np.isfinite(gradient).all() and not gradient[:, 1].any() and gradient[:, 0].any()


@pytest.mark.parametrize("mode", ["offline", "causal"])
def test_matching_is_the_cross_entropy_of_attention(
    mode: Mode, batch: dict[str, jax.Array], outputs: jax.Array
) -> None:
    """Of the first of two heads in three layers: the mean over clips of that over all pairs of frames that see each other."""
    model = random_model(0)
    true = jax.tree.map(np.asarray, correspondences(batch, PATCH))
    layers = []
    for layer, output in enumerate(outputs[:3]):
        block = jax.tree.map(lambda x, layer=layer: x[layer], model.network.aggregator.global_blocks)
        rotation = rotation_table(2, 2, SMALL.special_tokens, SMALL.head_dim, SMALL.rope_base)
        query, keys, _ = block.project(output[..., : SMALL.width], rotation)
        query, keys = (np.asarray(x)[:, :, SMALL.special_tokens :, 0] for x in (query, keys))
        surprises: list[list[float]] = [[] for _ in range(4)]
        for clip, s, t in np.ndindex(4, 3, 3):
            if s == t or (mode == "causal" and t > s):
                continue
            scores = query[clip, s] @ keys[clip, t].T / np.sqrt(SMALL.head_dim)
            weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            for patch in np.flatnonzero(true.seen[clip, s, t]):
                x, y = np.clip(true.place[clip, s, t, patch] - 0.5, 0, 1)
                shares = np.array([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x])
                surprises[clip].append(-shares @ np.log(weights[patch]))
        assert len(set(map(len, surprises))) > 1, "clips that count alike, whatever is seen"
        layers.append(np.mean([np.mean(clip) for clip in surprises]))
    found = guidance(model, outputs, batch, mode)["matching"]
    np.testing.assert_allclose(found, np.mean(layers), rtol=TOLERANCE)


def test_the_readout_asks_for_displacement_and_world_point(batch: dict[str, jax.Array], outputs: jax.Array) -> None:
    """Of all layers but the first. The truth costs nothing, a displacement wrong by (3, 4) √26 − 1, a point by 2 √5 − 1."""
    model = random_model(0)
    true = correspondences(batch, PATCH)
    own = jnp.moveaxis(jnp.diagonal(true.place, axis1=1, axis2=2), -1, 1)
    truth = jnp.concatenate([true.place[:, :, 0] - own, true.points], axis=-1)

    def readout(told: jax.Array) -> float:
        said = outputs.at[1:, :, :, SMALL.special_tokens :, SMALL.width : SMALL.width + 5].set(told)
        return float(guidance(model, said, batch, "causal")["readout"])

    assert abs(readout(truth)) < TOLERANCE
    assert np.isclose(readout(truth + jnp.array([3, 4, 0, 0, 0])), np.sqrt(26) - 1, rtol=TOLERANCE)
    assert np.isclose(readout(truth + jnp.array([0, 0, 0, 0, 2])), np.sqrt(5) - 1, rtol=TOLERANCE)


def test_guidance_needs_ground_truth() -> None:
    with pytest.raises(ValueError, match="task_weight must be above 0"):
        LossConfig(matching=1.0)


def test_fresh_networks_look_for_their_like() -> None:
    """The parts that differ from `Model.initialise`, and that nothing else does."""
    key = jax.random.key(5)
    plain, found = (flatten(make(SMALL, key).params) for make in (Model.initialise, fresh_model))
    changed = {path for path in plain if not np.array_equal(plain[path], found[path])}
    blocks = [
        f"aggregator/{name}/scale{n}" for name in ("encoder/blocks", "frame_blocks", "global_blocks") for n in (1, 2)
    ]
    assert changed == {
        *blocks, "aggregator/global_blocks/qkv/kernel", "aggregator/global_blocks/query_norm/scale",
        "aggregator/encoder/position_table",
    }  # fmt: skip
    query, keys, values = np.split(found["aggregator/global_blocks/qkv/kernel"], 3, axis=-1)
    np.testing.assert_array_equal(query, keys)
    assert not np.array_equal(query, values)
    table = found["aggregator/encoder/position_table"][1:]
    gram = table @ table.T
    assert (np.argmax(gram, axis=-1) == np.arange(len(table))).all(), "no position is like another"
