"""The library's face: what it prints of itself, pictures of any size, derivatives, and the README's snippets.

The tiny model with the frames of the golden numbers; noise of seed 0.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import ivggt_jax
from ivggt_jax import CacheConfig, Model, SubmapConfig, fit, infer_clip, init_stream, scan, step, stream

HEIGHT, WIDTH = 28, 42


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)


def test_every_public_name_is_there_and_no_other() -> None:
    for name in ivggt_jax.__all__:
        assert getattr(ivggt_jax, name).__name__ == name
    assert set(ivggt_jax.__all__) <= set(dir(ivggt_jax))
    with pytest.raises(AttributeError, match="no attribute 'inexistent'"):
        ivggt_jax.inexistent  # noqa: B018


def test_values_print_as_a_line_each(tiny: Model, images: np.ndarray) -> None:
    """As they are, used up, as shapes, and within a compiled function."""
    state = init_stream(tiny, CacheConfig(total_budget=2_000), height=HEIGHT, width=WIDTH, batch=2)
    assert "frames seen by each stream [0, 0]; keeps 2,000 tokens by diversity" in repr(state)
    after, predictions = step(tiny, state, np.stack([images[0]] * 2))
    assert "used up" in repr(state) and "[1, 1]" in repr(after)
    assert repr(predictions).startswith("Predictions(pose_encoding float32[2,9], depth float32[2,28,42]")
    assert f"{sum(x.size for x in jax.tree.leaves(tiny)):,} parameters" in repr(tiny)
    shapes = jax.eval_shape(lambda: (tiny, after, predictions))
    traced: list[str] = []
    jax.jit(lambda *values: traced.extend(map(repr, values)))(tiny, after, predictions)
    names = jax.tree.map(lambda _: "x", (tiny, after, predictions))
    for value in (tiny, after, predictions, *shapes, *names, *traced):
        assert len(str(value)) < 400 and "\n" not in str(value)


@pytest.mark.parametrize("kind", ["file", "name", "Pillow", "grey", "bytes", "floats"])
def test_a_picture_of_any_size_fits(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (75, 100, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    picture = {
        "file": tmp_path / "picture.png",
        "name": str(tmp_path / "picture.png"),
        "Pillow": Image.fromarray(pixels),
        "grey": Image.fromarray(pixels[..., 0]),
        "bytes": pixels,
        "floats": pixels / 255,
    }[kind]
    fitted = fit(picture, 70)
    assert fitted.dtype == np.uint8 and fitted.shape == (56, 70, 3)  # 52.5 rows are nearest to four patches
    if kind != "grey":
        np.testing.assert_array_equal(fitted, fit(pixels, 70))
    assert fit(picture, 70, "pad").shape == (70, 70, 3)
    assert fit(picture, 70, like=np.zeros((42, 56, 3))).shape == (42, 56, 3)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), int), np.zeros(3)])
def test_what_is_no_picture_is_named(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a picture is"):
        fit(wrong)


def test_a_size_that_does_not_fit_names_the_way_out(tiny: Model) -> None:
    with pytest.raises(ValueError, match="multiples of 14; ivggt_jax.fit gives any picture such a size"):
        infer_clip(tiny, np.zeros((1, 1, 30, 42, 3), np.uint8))


def test_a_prediction_is_handed_out_before_the_next_frame_is_asked_for(tiny: Model, images: np.ndarray) -> None:
    """With lookahead 0; by default one frame is computed while another is handed out. The numbers are the same."""
    found = {}
    for lookahead in (0, 1):
        asked = []

        def frames(asked: list[int] = asked):
            for i, image in enumerate(images):
                asked.append(i)
                yield image

        handed = []
        cache = CacheConfig(total_budget=None, max_frames=len(images))
        poses = []
        for i, predictions in enumerate(stream(tiny, frames(), cache, lookahead=lookahead, heads=("camera",))):
            handed.append(len(asked) - i)
            poses.append(predictions.pose_encoding)
        assert handed == [1] * 4 if lookahead == 0 else [2, 2, 2, 1]
        found[lookahead] = np.stack(poses)
    np.testing.assert_array_equal(found[0], found[1])
    with pytest.raises(ValueError, match="lookahead must be 0 or more"):
        next(stream(tiny, images, lookahead=-1))


def loss(model: Model, images: np.ndarray, cache: CacheConfig, submaps: SubmapConfig | None = None) -> jax.Array:
    """Something of the last frame's tokens, through a stream."""
    heads = () if submaps is None else ("camera", "depth")
    state = init_stream(
        model, cache, height=images.shape[1], width=images.shape[2], heads=heads, features=True, submaps=submaps
    )
    _, predictions = scan(model, state, jnp.asarray(images)[:, None])
    return jnp.mean(predictions.features[-1] ** 3)


@pytest.mark.parametrize("large", [False, True])
def test_a_stream_that_keeps_everything_has_derivatives(
    tiny: Model, images: np.ndarray, frames: np.ndarray, large: bool
) -> None:
    """Their shapes, which takes no compiling. Attention to large frames, 56×70, goes over chunks of the keys."""
    images = frames[:2] if large else images
    cache = CacheConfig(total_budget=None, max_frames=len(images))
    found = jax.eval_shape(jax.grad(partial(loss, images=images, cache=cache)), tiny)
    assert jax.tree.map(lambda x: x.shape, found.params) == jax.tree.map(lambda x: x.shape, tiny.params)


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
def test_a_stream_that_keeps_everything_has_the_derivatives_of_the_clip(
    tiny: Model, images: np.ndarray, frames: np.ndarray, large: bool
) -> None:
    """To 1e-3 of the largest of each parameter's."""
    images = frames[:2] if large else images

    def of_clip(model: Model) -> jax.Array:
        return jnp.mean(infer_clip(model, images[None], mode="causal", heads=(), features=True).features[0, -1] ** 3)

    model = tiny.only_heads(())
    cache = CacheConfig(total_budget=None, max_frames=len(images))
    found, expected = (
        jax.jit(jax.grad(partial(loss, images=images, cache=cache)))(model),
        jax.jit(jax.grad(of_clip))(model),
    )
    assert max(float(np.abs(x).max()) for x in jax.tree.leaves(expected)) > 1e-3
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max() + 1e-6)


@pytest.mark.parametrize("submaps", [None, SubmapConfig(frames=4)])
def test_a_stream_that_forgets_says_that_it_has_no_derivatives(
    tiny: Model, images: np.ndarray, submaps: SubmapConfig | None
) -> None:
    cache = CacheConfig(total_budget=2_000 if submaps is None else None, max_frames=4)
    with pytest.raises(ValueError, match="a stream that forgets has no derivatives"):
        jax.grad(loss)(tiny, images, cache, submaps)


def test_a_stream_with_an_int8_cache_says_so_too(tiny: Model, images: np.ndarray) -> None:
    """Rounding would give derivatives that are zero but for the largest number of each vector."""
    cache = CacheConfig(total_budget=None, max_frames=4, dtype="int8")
    with pytest.raises(ValueError, match="a stream with an int8 cache has no derivatives"):
        jax.grad(loss)(tiny, images, cache)


@pytest.mark.parametrize("function", [step, scan])
def test_nor_has_a_stream_that_forgets_derivatives_by_depth(tiny: Model, images: np.ndarray, function: Any) -> None:
    frames, depth = jnp.asarray(images[:1]), jnp.ones((1, *images.shape[1:3]))
    if function is scan:
        frames, depth = frames[None], depth[None]
    size = {"height": images.shape[1], "width": images.shape[2]}

    def mean_depth(depth: jax.Array) -> jax.Array:
        state = init_stream(tiny, CacheConfig(total_budget=2_000), submaps=SubmapConfig(frames=4), **size)
        return jnp.mean(function(tiny, state, frames, depth=depth)[1].depth)

    with pytest.raises(ValueError, match="a stream that forgets has no derivatives"):
        jax.jvp(mean_depth, (depth,), (depth,))
