"""The recipes of CONTRIBUTING.md, each followed with a small example in memory; names are registered for the test alone."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from streaming import BOUNDED, HEIGHT, TOKENS, WIDTH, feed, live_tokens, start
from writer_scene import result

from ivggt_jax import Model, ModelConfig, Predictions, config
from ivggt_jax.evaluate import datasets as evaluated
from ivggt_jax.memory.policies import POLICIES, find_policy
from ivggt_jax.model import vggt
from ivggt_jax.model.heads import HEADS, Head
from ivggt_jax.model.heads.dpt import DenseHead
from ivggt_jax.sources import Source, SourceConfig, SourceError, read_image
from ivggt_jax.sources.frame import Picture, RawFrame
from ivggt_jax.train.data.sampling import Sampling
from ivggt_jax.train.data.scene import Dataset, LabelledFrame, Scene, open_scenes
from ivggt_jax.train.losses.objective import LossConfig, objective
from ivggt_jax.writers import WRITERS, ExportOptions, Result, Writers
from ivggt_jax.writers.files import LineFile
from ivggt_jax.writers.writer import Writer


def newest_go(keys, live, candidates, origin, extra):
    """A policy: the newer a token, the sooner it goes. [batch,head,slot] in [0,1]"""
    return (origin.frame / jnp.maximum(origin.newest, 1)[:, None, None]).transpose(0, 2, 1)


def test_a_policy(tiny: Model, videos: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the first frames, of which the budget holds three in a layer; a name is the same as the function."""
    cache = dataclasses.replace(BOUNDED, policy=newest_go, temperature=float("inf"))
    state, _ = feed(tiny, start(tiny, cache, batch=1), videos[:6, :1])
    assert all(tokens == list(range(3 * TOKENS)) for layer in live_tokens(state, 0) for tokens in layer)
    monkeypatch.setitem(POLICIES, "newest_go", newest_go)
    assert find_policy("newest_go") is newest_go


def normals(config: ModelConfig, *, rngs: nnx.Rngs) -> DenseHead:
    """A head: a direction for every pixel."""
    return DenseHead(config, 3, rngs=rngs)


def sky(config: ModelConfig, *, rngs: nnx.Rngs) -> DenseHead:
    """A head without confidence: whether a pixel is sky."""
    return DenseHead(config, 1, confidence=False, rngs=rngs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MorePredictions(Predictions):
    normals: jax.Array | None = None
    normals_confidence: jax.Array | None = None
    sky: jax.Array | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoreLosses(LossConfig):
    normals: float = 3.0
    sky: float = 2.0


@pytest.mark.parametrize("distillation", ["distill", "kl"])
def test_heads_with_their_losses(distillation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense heads are made, run, and are distilled, with their weight, from the table alone. Shapes are traced, not computed."""
    monkeypatch.setitem(HEADS, "normals", Head({"normals": normals}, ("normals", "normals_confidence"), jnp.tanh))
    monkeypatch.setitem(HEADS, "sky", Head({"sky": sky}, ("sky",), lambda raw: jax.nn.sigmoid(raw[..., 0])))
    monkeypatch.setattr(config, "HeadName", Literal[(*typing.get_args(config.HeadName), "normals", "sky")])
    monkeypatch.setattr(vggt, "Predictions", MorePredictions)
    shape = dataclasses.replace(ModelConfig.tiny(), predicts=("camera", "normals", "sky"))

    def losses(images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        model = Model.initialise(shape, jax.random.key(0))
        assert set(model.params) == {"aggregator", "camera", "normals", "sky"}
        found = model.network.clip(images, mode="causal", heads=("normals", "sky"))
        assert found.normals.shape == (*found.normals_confidence.shape, 3) == (*found.sky.shape, 3) == images.shape
        return objective(MoreLosses(distillation=distillation), found, {}, found)

    _, terms = jax.eval_shape(losses, jax.ShapeDtypeStruct((1, 2, HEIGHT, WIDTH, 3), jnp.float32))
    assert {name.split("_")[0] for name in terms} == {f"{distillation}/normals", f"{distillation}/sky", "loss"}


class Colours:
    """A source: pictures of one colour, of which the third is damaged."""

    length = expected_length = 4
    dropped = left_out = 0
    read_ahead = resumable = True

    def raw_frames(self) -> Iterator[RawFrame]:
        for index in range(self.length):
            yield RawFrame(index, index / 10, f"{index:06d}", f"colour {index}", partial(self._read, index))

    def close(self) -> None:
        pass

    def _read(self, index: int) -> Picture:
        if index == 2:
            raise SourceError("colour 2: there is no such colour")
        return Picture(Image.new("RGB", (56, 28), (index, 0, 0)))


def test_a_source() -> None:
    with Source(SourceConfig(frames="colours", size=28, on_error="skip"), Colours()) as source:
        frames = list(source)
        assert [(frame.index, frame.timestamp, frame.image.shape) for frame in frames] == [
            (index, index / 10, (14, 28, 3)) for index in (0, 1, 3)
        ]
        assert source.skipped_names == ["colour 2: there is no such colour"]
    with Source(SourceConfig(frames="colours", size=28), Colours()) as source, pytest.raises(SourceError, match="skip"):
        list(source)


class FocalWriter(Writer):
    """A writer: one focal length a line."""

    name = "focal"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._file = LineFile(out / "focal.txt", frames)

    def write(self, result: Result) -> None:
        self._file.append(f"{result.intrinsics[0, 0]:g}")

    def close(self) -> None:
        self._file.close()


def test_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is whole after every frame, and a resumed run ends with the same file."""
    monkeypatch.setitem(WRITERS, "focal", FocalWriter)
    writers = Writers(["focal"], tmp_path, ExportOptions())
    for index in range(3):
        writers.write(result(index))
        assert (tmp_path / "focal.txt").read_text() == "151.2\n" * (index + 1)
    state = writers.state()
    writers.close()
    resumed = Writers(["focal"], tmp_path, ExportOptions(), 1, state)
    resumed.write(result(1))
    resumed.close()
    assert (tmp_path / "focal.txt").read_text() == "151.2\n" * 2


def find(root: Path, options: evaluated.ReadOptions) -> dict[str, Path]:
    """A dataset to evaluate on: folders with pictures, and no truth but poses that never move."""
    return {path.name: path for path in sorted(root.iterdir())}


def read(name: str, folder: Path, options: evaluated.ReadOptions) -> evaluated.Sequence:
    images = tuple(sorted(folder.glob("*.png")))
    return evaluated.Sequence("still", name, images, world_from_cam=np.tile(np.eye(3, 4), (len(images), 1, 1)))


class StillScene(Scene):
    """The same, to train on."""

    def __init__(self, folder: Path):
        self.name, self._images = folder.name, sorted(folder.glob("*.png"))
        if not self._images:
            raise ValueError("no pictures")

    def __len__(self) -> int:
        return len(self._images)

    def frame(self, position: int) -> LabelledFrame:
        return LabelledFrame(read_image(self._images[position], exif=False), world_from_cam=np.eye(4))


def still(root: Path, split: str = "train") -> Dataset:
    return open_scenes(f"still {root}", sorted(root.iterdir()), StillScene, Sampling(max_interval=1, block=1))


def test_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One scene of two pictures, and one without any, which is named and left out."""
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    for index in range(2):
        Image.new("RGB", (28, 14)).save(tmp_path / "full" / f"{index}.png")
    monkeypatch.setitem(evaluated.DATASETS, "still", evaluated.Dataset("<scene>/*.png", find, read))
    skipped, sequence = evaluated.open_dataset("still", tmp_path)
    assert isinstance(skipped, evaluated.Skipped) and skipped.name == "empty" and len(sequence) == 2
    dataset = still(tmp_path)
    assert len(dataset.scenes) == 1 and "empty" in dataset.broken[0]
    assert dataset.scenes[0].frame(1).image.size == (28, 14) and list(dataset.starts(2)) == [1]
