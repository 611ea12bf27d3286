"""The comparison with the PyTorch implementation: its table, its refusals, and what it takes from a clone."""

import sys

import numpy as np
import pytest

from ivggt_jax.convert.reference import Reference
from ivggt_jax.convert.verify import Difference, Verify, _frames, compare, first_departure, run, table
from ivggt_jax.weights.tensor_file import CheckpointError, write_safetensors


def test_differences_are_listed_in_the_references_order():
    theirs = {"patch tokens": np.array([1.0, -4.0]), "depth": np.array([2.0, 2.0])}
    ours = {"depth": np.array([2.0, 2.5]), "patch tokens": np.array([1.0, -4.0])}
    assert list(compare(ours, theirs)) == [Difference("patch tokens", 0, 0, 4), Difference("depth", 0.5, 0.25, 2)]


def test_the_first_departure_is_marked():
    found = [Difference("a", 1e-5, 1e-6, 1), Difference("b", 0.3, 0.1, 100), Difference("c", 0.3, 0.1, 1)]
    found += [Difference("d", float("nan"), float("nan"), 1)]
    assert first_departure(found, 1e-2) is found[2]
    assert first_departure(found[:2], 1e-2) is None
    assert first_departure(found[3:], 1e-2) is found[3]
    lines = table(found, 1e-2).splitlines()
    assert lines[2] == "| a | 1.0e-05 | 1.0e-06 | 1 |  |"
    assert [("departs first" in line) for line in lines[2:]] == [False, False, True, False]
    assert first_departure([Difference("tracks", 0.3, 0.1, 1)], 1e-2) is None
    assert first_departure([Difference("tracks, first iteration", 0.3, 0.1, 1)], 1e-2) is not None


def test_outputs_of_one_side_only_are_an_error():
    with pytest.raises(CheckpointError, match=r"only one side has: \['depth', 'points'\]"):
        list(compare({"depth": np.ones(1)}, {"points": np.ones(1)}))
    with pytest.raises(CheckpointError, match=r"depth has shape \[1\], the reference's \[2\]"):
        list(compare({"depth": np.ones(1)}, {"depth": np.ones(2)}))


def test_frames_are_made_up_or_read(tmp_path):
    command = Verify("x", tmp_path, count=3, size=70)
    images = _frames(command)
    assert (images.shape, images.dtype) == ((3, 56, 70, 3), np.float32)
    assert 0 <= images.min() < 0.2 and 0.8 < images.max() <= 1
    assert np.abs(np.diff(images, axis=0)).mean() > 0.01
    with pytest.raises(CheckpointError, match="--count 2 is too few"):
        _frames(Verify("x", tmp_path, count=2))


def test_frames_too_small_for_the_tracker_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="frames of 140×112 are too small .* raise --size 140"):
        run(Verify("x", tmp_path, size=140))


def test_tensors_of_another_model_are_refused_before_any_is_built(tmp_path):
    path = tmp_path / "other.safetensors"
    write_safetensors(path, {"extra": ((1,), np.dtype(np.float32))}, lambda _: np.zeros(1, np.float32))
    with pytest.raises(CheckpointError, match=r"other.safetensors is not VGGT: .*; it consists of extra \(1 tensor\)"):
        run(Verify(str(path), tmp_path))


def test_a_folder_that_is_no_clone_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a clone of the PyTorch repository .*git clone https://"):
        Reference(tmp_path, {})


STAND_IN = """
import types
import torch


class Encoder(torch.nn.Module):
    def forward(self, x):
        return {"x_norm_patchtokens": x.mean((2, 3))[:, None]}


class Aggregator(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = Encoder()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def forward(self, images):
        patches = self.patch_embed(images[0])["x_norm_patchtokens"]
        return [patches[None] * self.weight[0], patches[None] * self.weight[1]], 0


class Tracker(torch.nn.Module):
    def forward(self, queries):
        return [queries + 1, queries + 2], None, None


class StreamVGGT(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.aggregator = Aggregator()
        self.track_head = Tracker()

    def forward(self, views, query_points=None):
        images = torch.stack([view["img"] for view in views], dim=1)
        self.aggregator(images)
        tracks, _, _ = self.track_head(query_points[None, None].expand(1, len(views), -1, -1))
        return types.SimpleNamespace(ress=[self.predict(view) | {"track": tracks[-1][:, 0]} for view in views])

    def inference(self, views):
        return types.SimpleNamespace(ress=[self.predict(view) | {"conf": torch.tensor([self.total_budget])} for view in views])

    def predict(self, view):
        return {"camera_pose": torch.arange(9.0)[None], "depth": view["img"][:, 0, :, :, None]}
"""


def test_what_a_clone_computes_is_taken_over(tmp_path, monkeypatch):
    """With a stand-in for the clone; needs PyTorch."""
    pytest.importorskip("torch")
    package = tmp_path / "src" / "streamvggt" / "models"
    package.mkdir(parents=True)
    (package / "streamvggt.py").write_text(STAND_IN)
    reference = Reference(tmp_path, {"aggregator.weight": np.array([2.0, 3.0], np.float32)})
    assert str(tmp_path / "src") not in sys.path
    images = np.random.default_rng(0).random((3, 4, 6, 3), dtype=np.float32)
    queries = np.ones((5, 2), np.float32)
    clip = reference.clip(images, queries, (0, 1))
    means = images.mean((1, 2))[:, None]
    np.testing.assert_allclose(clip["patch tokens"], means, rtol=1e-6)
    np.testing.assert_allclose(clip["layer 1"], 3 * means, rtol=1e-6)
    assert clip["pose_encoding"].shape == (3, 9)
    np.testing.assert_array_equal(clip["tracks, first iteration"], np.full((3, 5, 2), 2))
    np.testing.assert_array_equal(clip["tracks"], np.full((3, 5, 2), 3))
    np.testing.assert_array_equal(clip["depth"], images[..., 0])
    assert list(reference.stream(images, 1234)["points_confidence"]) == [1234] * 3
    for name in [name for name in sys.modules if name.startswith("streamvggt")]:
        monkeypatch.delitem(sys.modules, name)
