"""`python -m convert verify`: runs the same frames through this model and the PyTorch one, and compares stage by stage."""

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ivggt_jax.config import PUBLISHED_HEADS, CacheConfig, ModelConfig
from ivggt_jax.convert.assembly import published, torch_shapes
from ivggt_jax.convert.parameters import to_torch
from ivggt_jax.convert.recognise import open_vggt
from ivggt_jax.convert.reference import Reference
from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.sources import SourceConfig, open_source
from ivggt_jax.streaming.steps import infer_clip, stream
from ivggt_jax.weights import loading
from ivggt_jax.weights.checkpoint import is_checkpoint
from ivggt_jax.weights.tensor_file import CheckpointError

BUDGET_FRAMES = 2
"""Frames that the bounded stream keeps in each layer, so that the third frame causes eviction."""
UNBOUNDED = 10**9
"""Tokens: unbounded in practice, but within 32 bits, in which the reference counts."""
SMALLEST_SIDE = 128
"""Pixels: at this size the last of the tracker's seven pyramid levels has one row."""
QUERIES = 8
UNJUDGED = ("tracks", "visibility", "track_confidence")
"""Outputs of the tracker's last iteration. Each iteration amplifies rounding errors 30 to 60 times, so only the first can be held
to a tolerance."""


@dataclass(frozen=True)
class Verify:
    """Compare this implementation with a clone of the PyTorch one, in float32 on the CPU."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A PyTorch file, a checkpoint directory of this project, or a published name."""
    reference: Path
    """A clone of the PyTorch repository. PyTorch and the clone's other dependencies must be installed."""
    frames: str | None = None
    """Folder of images, video or list, as for infer. Default: a generated drifting pattern."""
    count: int = 4
    """Frames to run, at least 3."""
    size: int = 182
    """Width in pixels, a multiple of 14; 518 is the size of training and takes minutes."""
    tolerance: float = 1e-3
    """Largest difference that still counts as equal, relative to the largest magnitude of a stage."""


@dataclass(frozen=True)
class Difference:
    """Difference of one output of a stage from the reference's."""

    stage: str
    largest: float
    mean: float
    magnitude: float
    """The largest absolute value of the reference's output."""


def run(command: Verify) -> int:
    """Compare this implementation with a clone of the PyTorch one, stage by stage, in float32 on the CPU."""
    images = _frames(command)
    if min(images.shape[1:3]) < SMALLEST_SIDE:
        raise CheckpointError(
            f"frames of {images.shape[2]}×{images.shape[1]} are too small for the reference's tracker, "
            f"which needs {SMALLEST_SIDE} pixels each way; raise --size {command.size}"
        )
    path = loading.locate(command.checkpoint)
    queries = _queries(*images.shape[1:3])
    config = loading.find_config(path)
    if config.depth_input or published(config) != ModelConfig.vggt_1b():
        raise CheckpointError(f"{path} is not of the published shapes, the only ones that the PyTorch model has")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_default_matmul_precision", "highest")
    tensors = to_torch(loading.load(path, np.float32)) if is_checkpoint(path) else open_vggt(path, config).tensors
    if absent := {name.partition(".")[0] for name in torch_shapes(config).keys() - tensors.keys()}:
        raise CheckpointError(f"{path} has no {', '.join(sorted(absent))}, and the PyTorch model has all heads")
    budget = BUDGET_FRAMES * config.depth * config.tokens_per_frame(*images.shape[1:3])
    reference = Reference(command.reference, tensors)
    theirs = reference.clip(images, queries, config.dpt_layers)
    streams = [("unbounded stream", UNBOUNDED), (f"stream of {budget:,} tokens", budget)]
    for name, total in streams:
        theirs |= {f"{name}: {field}": x for field, x in reference.stream(images, total).items()}
    # One model at a time, because each takes 5 GB.
    del reference, tensors
    gc.collect()
    model = loading.load(path, np.float32)
    ours = _clip(model, images, queries)
    for name, total in streams:
        bounded = CacheConfig(total_budget=budget, capacity_factor=None, max_frames=len(images))
        unbounded = CacheConfig(total_budget=None, max_frames=len(images))
        predictions = stream(model, images, bounded if total == budget else unbounded)
        ours |= {f"{name}: {field}": x for field, x in _fields(_stacked(predictions)).items()}
    differences = list(compare(ours, theirs))
    print(f"{path}, {len(images)} frames of {images.shape[2]}×{images.shape[1]}, float32\n")
    print(table(differences, command.tolerance))
    return int(first_departure(differences, command.tolerance) is not None)


def compare(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> Iterator[Difference]:
    """Differences of all outputs, in the order of the reference's stages.

    Raises CheckpointError for an output that only one side has, or whose shapes differ.
    """
    if ours.keys() != theirs.keys():
        raise CheckpointError(f"outputs that only one side has: {sorted(ours.keys() ^ theirs.keys())}")
    for stage, expected in theirs.items():
        if ours[stage].shape != expected.shape:
            raise CheckpointError(
                f"{stage} has shape {list(ours[stage].shape)}, the reference's {list(expected.shape)}"
            )
        difference = np.abs(ours[stage].astype(np.float64) - expected)
        yield Difference(stage, difference.max(), difference.mean(), np.abs(expected).max())


def first_departure(differences: list[Difference], tolerance: float) -> Difference | None:
    """The first output that differs by more than `tolerance` times its magnitude, or is NaN; None if all agree.

    The tracker's last iteration is not judged.
    """
    judged = (d for d in differences if d.stage not in UNJUDGED)
    return next((d for d in judged if not d.largest <= tolerance * d.magnitude), None)


def table(differences: list[Difference], tolerance: float) -> str:
    """The comparison as a Markdown table; the first stage that differs is marked."""
    departed = first_departure(differences, tolerance)
    lines = ["| stage | largest difference | mean difference | largest value | |", "|---|---|---|---|---|"]
    for d in differences:
        mark = "departs first" if d is departed else "rounding, enlarged" if d.stage in UNJUDGED else ""
        lines.append(f"| {d.stage} | {d.largest:.1e} | {d.mean:.1e} | {d.magnitude:.3g} | {mark} |")
    return "\n".join(lines)


def _clip(model: Model, images: np.ndarray, queries: np.ndarray) -> dict[str, np.ndarray]:
    """The counterpart of `Reference.clip`."""

    @jax.jit
    def inside(model: Model, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        network = model.network
        layers = network.aggregator.clip(images[None], "causal")
        maps = network.track_maps(layers, *images.shape[1:3])
        tracks, _, _ = network.tracker(maps, jnp.asarray(queries[None]), iterations=1)
        return network.aggregator.encoder(images), layers[:, 0], tracks[0]

    patches, layers, tracks = inside(model, images)
    found = {"patch tokens": np.asarray(patches), "tracks, first iteration": np.asarray(tracks)}
    found |= {f"layer {i}": np.asarray(x) for i, x in zip(model.config.dpt_layers, layers, strict=True)}
    predictions = infer_clip(model, images[None], "causal", queries[None], heads=PUBLISHED_HEADS)
    return found | _fields(jax.tree.map(lambda x: x[0], predictions))


def _stacked(predictions: Iterator[Predictions]) -> Predictions:
    stacked: Predictions = jax.tree.map(lambda *frames: np.stack(frames), *predictions)
    return stacked


def _fields(predictions: Predictions) -> dict[str, np.ndarray]:
    """The fields that are present, in the reference's order."""
    return {name: np.asarray(x) for name, x in vars(predictions).items() if x is not None}


def _frames(command: Verify) -> np.ndarray:
    """Float32 frames [S,H,W,3] in [0,1]."""
    if command.count < 3:
        raise CheckpointError(f"--count {command.count} is too few: the bounded stream evicts from frame 3 on")
    if command.frames is not None:
        source = open_source(SourceConfig(frames=command.frames, size=command.size, max_frames=command.count))
        images = [frame.image for frame in source]
        if len(images) < command.count:
            raise CheckpointError(f"{command.frames} has {len(images)} frames, --count asks for {command.count}")
        return np.stack(images).astype(np.float32) / 255
    height, width = round(command.size * 0.75 / 14) * 14, command.size
    rows, columns = np.mgrid[:height, :width] / width
    waves = np.random.default_rng(0).uniform(-40, 40, (2, 12, 3))
    drift = np.arange(command.count)[:, None, None, None, None] / 20
    phases = waves[0] * (rows[..., None, None] + drift) + waves[1] * columns[..., None, None]
    return (0.5 + 0.04 * np.sin(phases).sum(axis=-2)).astype(np.float32)


def _queries(height: int, width: int) -> np.ndarray:
    """Points (x, y) well inside the first frame."""
    return np.random.default_rng(1).uniform(0.2, 0.8, (QUERIES, 2)).astype(np.float32) * np.array(
        [width, height], np.float32
    )
