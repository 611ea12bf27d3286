"""Details of the network that the golden numbers do not reach: other sizes, position tables, memory-saving paths."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy_reference import cubic_resize_matrix

from ivggt_jax import Model, infer_clip
from ivggt_jax.model import vggt
from ivggt_jax.model.encoder import MEAN, STD
from ivggt_jax.model.heads import dpt
from ivggt_jax.model.heads.dpt import resize_aligned, uv_embedding
from ivggt_jax.model.rope import rotate, rotation_table


def close(found, expected, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (4, 5), (1, 1), (3, 7), (6, 10)])
def test_position_table(tiny: Model, rows, columns):
    """5×5 is the table itself; smaller grids are antialiased, larger ones interpolated."""
    table = np.asarray(tiny.params["aggregator"]["encoder"]["position_table"], np.float64)
    first, grid = tiny.network.aggregator.encoder._positions(rows, columns)
    vertical, horizontal = cubic_resize_matrix(5, rows), cubic_resize_matrix(5, columns)
    expected = np.einsum("hr,rcd,wc->hwd", vertical, table[1:].reshape(5, 5, -1), horizontal)
    close(first, table[:1], 0)
    close(grid, expected.reshape(rows * columns, -1), 2e-6)


def test_patches_are_normalised_pixels_in_rows(tiny: Model):
    """A patch's projection is its pixels' dot product with the convolution's kernel (row, column, channel)."""
    image = np.random.default_rng(0).uniform(size=(28, 42, 3)).astype(np.float32)
    encoder = tiny.network.aggregator.encoder
    bare = jax.tree.map(jnp.zeros_like, encoder.blocks)  # zero LayerScale: blocks pass everything on
    positions = jnp.zeros_like(encoder.position_table[...])
    encoder.blocks, encoder.position_table[...] = bare, positions
    kernel = np.asarray(encoder.patch_projection.kernel[...], np.float64).reshape(14, 14, 3, -1)
    patch = ((image - MEAN) / STD)[14:28, 28:42]
    expected = np.einsum("rcx,rcxd->d", patch, kernel) + np.asarray(encoder.patch_projection.bias[...])
    expected = (expected - expected.mean()) / np.sqrt(expected.var() + 1e-6)
    expected = expected * np.asarray(encoder.norm.scale[...]) + np.asarray(encoder.norm.bias[...])
    close(encoder(jnp.asarray(image[None]))[0, 5], expected)


def test_the_camera_learns_from_its_last_iteration(tiny: Model):
    """As in VGGT: an iteration starts from the pose before it as from a constant. Each frame's last delta has the bias once."""
    images = np.random.default_rng(0).uniform(size=(1, 3, 28, 28, 3)).astype(np.float32)

    def last(params):
        return infer_clip(Model(tiny.config, params), images, heads=("camera",)).pose_encoding[..., 0].sum()

    assert tiny.config.camera_iterations == 4
    slope = jax.grad(last)(tiny.params)["camera"]
    np.testing.assert_allclose(slope["pose_branch"]["fc2"]["bias"][0], 3, rtol=1e-5)
    assert not np.any(slope["empty_pose"])


@pytest.mark.parametrize(("height", "width"), [(14, 14), (70, 70), (14, 98), (84, 42)])
def test_any_size_in_multiples_of_the_patch(tiny: Model, height, width):
    """A single patch, the table's own size, a strip, larger than the table."""
    images = np.random.default_rng(0).uniform(size=(1, 2, height, width, 3)).astype(np.float32)
    found = infer_clip(tiny, images)
    assert found.depth.shape == found.points_confidence.shape == (1, 2, height, width)
    assert found.points.shape == (1, 2, height, width, 3)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert np.asarray(found.depth).min() > 0
    assert np.asarray(found.depth_confidence).min() >= 1


def test_only_the_first_frame_is_special(tiny: Model, frames: np.ndarray):
    """Offline, exchanging later frames exchanges their predictions; exchanging the first changes them."""
    clip = frames[:3, :28, :42]
    options = {"heads": ["camera"], "features": True}
    found = infer_clip(tiny, clip[None], **options)
    later = infer_clip(tiny, clip[None, [0, 2, 1]], **options)
    close(found.features[:, [0, 2, 1]], later.features)
    close(found.pose_encoding[:, [0, 2, 1]], later.pose_encoding)
    first = infer_clip(tiny, clip[None, [1, 0, 2]], **options)
    assert np.abs(found.features[:, [1, 0, 2]] - first.features).max() > 0.1


def test_causal_frames_do_not_see_later_ones(tiny: Model, frames: np.ndarray):
    clip = frames[:3, :28, :42].copy()
    options = {"mode": "causal", "heads": ["camera"], "features": True}
    found = infer_clip(tiny, clip[None], **options)
    clip[2] = 1 - clip[2]
    changed = infer_clip(tiny, clip[None], **options)
    np.testing.assert_array_equal(found.features[:, :2], changed.features[:, :2])
    np.testing.assert_array_equal(found.pose_encoding[:, :2], changed.pose_encoding[:, :2])


def test_dense_heads_a_few_frames_at_a_time(tiny: Model, monkeypatch):
    """Five frames, two at once, equal all at once."""
    outputs = jax.random.normal(jax.random.key(0), (4, 1, 5, 11, 128))

    def depth():
        return jax.jit(lambda model, x: model.network.dense(x, 28, 42, ["depth"]))(tiny, outputs)

    expected = depth()
    monkeypatch.setattr(vggt, "PIXELS_AT_ONCE", 2 * 28 * 42)
    jax.tree.map(close, depth(), expected)


@pytest.mark.slow
def test_recomputing_in_the_backward_pass_changes_nothing(tiny: Model, frames: np.ndarray):
    """Loss and the derivatives of all parameters, relative to the largest derivative."""
    model = replace(tiny, config=replace(tiny.config, encoder_depth=2))
    clip = jnp.asarray(frames[None, :2, :14, :28])

    def loss(params, remat):
        network = Model(model.config, params).network
        return (network.aggregator.clip(clip, "causal", remat=remat)[-1] ** 2).mean()

    (found, found_gradient), (expected, gradient) = (
        jax.jit(jax.value_and_grad(lambda params, remat=remat: loss(params, remat)))(tiny.params)
        for remat in (True, False)
    )
    close(found, expected)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient))
    assert largest > 0
    jax.tree.map(lambda x, y: close(x / largest, y / largest), found_gradient, gradient)


def test_rotation_turns_row_and_column_halves():
    """Head dimension 8: pairs (0,2), (1,3) turn with the row, (4,6), (5,7) with the column; special tokens not at all."""
    x = np.random.default_rng(0).normal(size=(2 + 6, 1, 8)).astype(np.float32)
    found = np.asarray(rotate(jnp.asarray(x), rotation_table(2, 3, special_tokens=2, head_dim=8, base=100.0)))
    np.testing.assert_array_equal(found[:2], x[:2])
    for patch in range(6):
        row, column = 1 + patch // 3, 1 + patch % 3
        for position, offset in ((row, 0), (column, 4)):
            for i, frequency in enumerate((1.0, 0.1)):
                angle = position * frequency
                a, b = x[2 + patch, 0, offset + i], x[2 + patch, 0, offset + 2 + i]
                turned = a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)
                close(found[2 + patch, 0, [offset + i, offset + 2 + i]], turned, 1e-6)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(("size", "new_size"), [((3, 4), (5, 9)), ((5, 9), (3, 4)), ((1, 3), (4, 1)), ((2, 2), (2, 2))])
def test_aligned_corner_resize(size, new_size, platform, monkeypatch: pytest.MonkeyPatch):
    """By matrices as on a CPU, and by two neighbours as on a GPU."""
    monkeypatch.setattr(dpt, "platform", lambda: platform)
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    found = np.asarray(resize_aligned(jnp.asarray(x), *new_size))
    for h, w in np.ndindex(new_size):
        row, column = (i * (n - 1) / max(m - 1, 1) for i, n, m in zip((h, w), size, new_size, strict=True))
        weights = (
            np.maximum(0, 1 - np.abs(np.arange(size[0]) - row)),
            np.maximum(0, 1 - np.abs(np.arange(size[1]) - column)),
        )
        close(found[:, h, w], np.einsum("brcd,r,c->bd", x, *weights), 1e-6)


@pytest.mark.parametrize("size", [(1, 1), (5, 6), (8, 7)])
def test_halving_is_the_convolution(size):
    """As one matrix product: 2 maps of 6 channels, odd and even."""
    conv = dpt.conv(6, 4, stride=2, rngs=nnx.Rngs(0))
    conv.bias = nnx.Param(jnp.arange(4.0))
    x = jax.random.normal(jax.random.key(0), (2, *size, 6))
    close(dpt.halved(conv, x), conv(x), 1e-5)


def test_uv_embedding():
    """Feature by feature: x then y, sine then cosine, frequencies 100^(−i/2) for eight features."""
    rows, columns, aspect = 3, 4, 1.5
    found = uv_embedding(rows, columns, 8, aspect)
    spans = aspect / np.hypot(aspect, 1), 1 / np.hypot(aspect, 1)
    for r, c in np.ndindex(rows, columns):
        expected = []
        for index, count, span in ((c, columns, spans[0]), (r, rows, spans[1])):
            position = span * (2 * index + 1 - count) / count
            angles = [position, position / 10]
            expected += [*np.sin(angles), *np.cos(angles)]
        close(found[r, c], expected, 1e-6)
