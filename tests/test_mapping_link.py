"""The ratio of two units is known where depths are exact, holds wrong pixels, and is finite without any; seeds below."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax.mapping.link import link

SHAPE = (42, 56)
linked = jax.jit(link)


@pytest.fixture(scope="module")
def depth():
    return np.random.default_rng(0).uniform(1, 4, SHAPE).astype(np.float32)


def test_exact_depths_give_their_ratio(depth):
    found = linked(1.7 * depth, depth)
    np.testing.assert_allclose(found.scale, 1.7, rtol=1e-6)
    assert found.spread < 1e-6
    assert found.share == 1
    assert found.sound


def test_a_third_of_wrong_pixels_moves_the_scale_little_and_a_mask_takes_them_out(depth):
    noise = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32) * 0.02
    wrong = np.random.default_rng(2).random(SHAPE) < 1 / 3
    old = 1.7 * depth * np.exp(noise) * np.where(wrong, 3, 1)
    # The median of all is the 75 % quantile of the right ones: 0.67 deviations of 0.02 up.
    np.testing.assert_allclose(np.log(linked(old, depth).scale / 1.7), 0.0135, atol=0.003)
    masked = linked(old, depth, ~wrong)
    # A median of 1,568 has a standard error of 1.25 · 0.02 / √1568 = 0.0006.
    np.testing.assert_allclose(np.log(masked.scale / 1.7), 0, atol=0.002)
    np.testing.assert_allclose(masked.spread, 0.02, rtol=0.1)
    np.testing.assert_allclose(masked.share, 1 - wrong.mean(), rtol=1e-5)


def test_depths_of_two_scenes_are_no_sound_link(depth):
    other = np.random.default_rng(3).permutation(depth.reshape(-1)).reshape(SHAPE)
    assert not linked(depth, other).sound


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_without_depth_the_scale_is_one_and_the_link_not_sound(depth, bad):
    for found in (linked(np.full_like(depth, bad), depth), linked(depth, np.full_like(depth, bad))):
        assert found.scale == 1
        assert found.share == 0
        assert not found.sound


def test_links_of_a_batch_are_those_of_its_streams(depth):
    old = jnp.stack((1.7 * depth, jnp.full_like(depth, jnp.nan)))
    found = jax.vmap(link)(old, jnp.stack((depth, depth)))
    np.testing.assert_allclose(found.scale, (1.7, 1), rtol=1e-6)
    np.testing.assert_array_equal(found.sound, (True, False))
