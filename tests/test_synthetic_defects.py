"""Defects of rendered images: against Pillow's JPEG, known answers, and that nothing changes by default."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ivggt_jax.evaluate.walks import HELD_OUT_SEED, Walk
from ivggt_jax.synthetic import Defects, random_defects, recompressed, taken
from ivggt_jax.train.data.synthetic import SyntheticBatches, SyntheticConfig

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Two frames of a room, 44×60: neither side is a multiple of JPEG's blocks."""
    return Walk("loop", HELD_OUT_SEED, 44, 60).part(0, 2).images


@pytest.mark.parametrize("quality", [10, 30, 75, 95])
def test_jpeg_is_what_pillow_writes(images: np.ndarray, quality: int) -> None:
    ours = np.asarray(recompressed(jnp.asarray(images / 255.0, jnp.float32), quality)) * 255
    for found, image in zip(ours, images, strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
        theirs = np.asarray(Image.open(file), np.float32)
        # The file changes the image by 3 to 17; both round at several places, so that a few coefficients differ.
        assert np.sqrt(np.mean((found - theirs) ** 2)) < 2.5


def test_by_default_nothing_changes(images: np.ndarray) -> None:
    given = jnp.asarray(images / 255.0, jnp.float32)
    # Quality 100 rounds brightness, colours and coefficients to whole numbers, as a file does.
    np.testing.assert_allclose(taken(KEY, given, Defects()), given, atol=3 / 255)


def test_each_defect_does_what_it_says() -> None:
    grey = jnp.full((3, 41, 57, 3), 0.5)
    dark = taken(KEY, grey, Defects(exposure=0.5, drift=0.25, warmth=0.1))
    np.testing.assert_allclose(dark[0, 0, 0], [0.275, 0.25, 0.225], atol=0.004)
    np.testing.assert_allclose(dark[:, 0, 0, 1], [0.25, 0.125, 0.0625], atol=0.004)
    corner = taken(KEY, grey, Defects(vignetting=0.4))
    np.testing.assert_allclose(corner[0, [0, 20], [0, 28], 0], [0.3, 0.5], atol=0.005)
    noisy = taken(KEY, jnp.ones_like(grey) * 0.5, Defects(noise=0.05))
    assert float(jnp.std(noisy - 0.5)) == pytest.approx(0.05 * 0.51**0.5, rel=0.05)
    edge = jnp.where(jnp.arange(57)[None, None, :, None] < 28, 0.2, 0.8) * jnp.ones_like(grey)
    rise = np.diff(np.asarray(taken(KEY, edge, Defects(blur=1.0)))[0, 20, :, 1]) / 0.6
    place = np.arange(56) - 27
    assert np.sum(rise * place) == pytest.approx(0, abs=0.02) and np.sum(rise * place**2) == pytest.approx(1, abs=0.1)


def test_a_share_of_random_clips_is_spoilt() -> None:
    defects = jax.vmap(lambda key: random_defects(key, 0.5))(jax.random.split(KEY, 400))
    spoilt = (np.asarray(defects.noise) > 0) | (np.asarray(defects.blur) > 0) | (np.asarray(defects.quality) < 100)
    assert np.mean(spoilt) == pytest.approx(0.5 * 7 / 8, abs=0.08)
    assert float(jnp.min(defects.quality)) >= 20 and float(jnp.max(defects.exposure)) <= 2**0.5 + 1e-6


def test_training_clips_keep_their_truth() -> None:
    config = SyntheticConfig(batch_size=1, frames=(2, 2), width=28, height=28, kinds=("room",), looks=("ahead",))
    clean = SyntheticBatches(config, steps=1)[0].arrays
    spoilt = SyntheticBatches(SyntheticConfig(**{**vars(config), "defects": 1.0}), steps=1)[0].arrays
    assert not np.array_equal(clean["images"], spoilt["images"])
    for name in clean.keys() - {"images"}:
        np.testing.assert_array_equal(clean[name], spoilt[name])
