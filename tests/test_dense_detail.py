"""Dense heads that see the image (`dpt_detail`): no change until trained, and then the same in clips, steps and scans.

Sizes: the tiny model, two streams of four frames, 28×42 pixels, four channels of detail; float32, equal to 1e-5.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax import CacheConfig, Model, infer_clip, init_stream, load, save, scan, step
from ivggt_jax.convert.command import export_file
from ivggt_jax.model.parameters import flatten, unflatten
from ivggt_jax.train.start import extended
from ivggt_jax.weights.tensor_file import CheckpointError

HEADS = ("camera", "depth", "points")
WHOLE = CacheConfig(total_budget=None, max_frames=4, camera_cache="per_iteration")
IMAGES = np.random.default_rng(0).random((4, 2, 28, 42, 3), np.float32)


@pytest.fixture(scope="module")
def fresh(tiny: Model) -> Model:
    return extended(tiny, (), jax.random.key(0), detail=4)


@pytest.fixture(scope="module")
def detailed(fresh: Model) -> Model:
    """With a last layer of the branches that is not zero any more."""
    params = flatten(fresh.params)
    for number, path in enumerate(("depth/detail/out/kernel", "points/detail/out/kernel")):
        assert not params[path].any()
        params[path] = jax.random.normal(jax.random.key(number), params[path].shape)
    return Model(fresh.config, unflatten(params))


def clip(model: Model, images: np.ndarray):
    return infer_clip(model, images.swapaxes(0, 1), mode="causal", heads=HEADS)


def test_an_untrained_branch_changes_nothing(tiny: Model, fresh: Model) -> None:
    assert fresh.config == dataclasses.replace(tiny.config, dpt_detail=4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), clip(tiny, IMAGES), clip(fresh, IMAGES)
    )
    with pytest.raises(ValueError, match="detail is 8, but the student's dense heads have 4"):
        extended(fresh, (), jax.random.key(0), detail=8)


def test_a_pixel_changes_what_is_near(detailed: Model) -> None:
    """Through the branch alone a pixel reaches eight pixels far: one in each of two convolutions, then two, then four."""
    model, patches = detailed.network, jnp.zeros((4, 1, 1, 5 + 6, 128))
    image = np.zeros((1, 1, 28, 42, 3), np.float32)
    image[0, 0, 14, 21] = 1
    plain, changed = (model.dense(patches, 28, 42, jnp.asarray(x), ["depth"])["depth"] for x in (0 * image, image))
    rows, columns = np.nonzero(np.asarray(plain != changed)[0, 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 22, 13, 29)


def test_streams_equal_clips(detailed: Model) -> None:
    """Steps, and a scan of the same frames, give what a causal clip gives."""
    expected = clip(detailed, IMAGES)
    state = init_stream(detailed, WHOLE, height=28, width=42, batch=2, heads=HEADS)
    _, scanned = scan(detailed, state, IMAGES)
    state = init_stream(detailed, WHOLE, height=28, width=42, batch=2, heads=HEADS)
    for number in range(4):
        state, found = step(detailed, state, IMAGES[number])
        for name in ("depth", "points", "pose_encoding"):
            wanted = np.asarray(getattr(expected, name)[:, number])
            np.testing.assert_allclose(getattr(found, name), wanted, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(getattr(scanned, name)[number], wanted, rtol=1e-4, atol=1e-5)


def test_it_is_saved_and_has_no_place_in_pytorch(detailed: Model, tmp_path: Path) -> None:
    save(detailed, tmp_path / "model")
    assert load(tmp_path / "model").config.dpt_detail == 4
    with pytest.raises(CheckpointError, match="has dpt_detail, which PyTorch's network has not"):
        export_file(tmp_path / "model", tmp_path / "model.pth")
