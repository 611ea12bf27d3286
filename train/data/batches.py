"""Batches of clips as a pure function of seed and step, so that the position in the data is the step number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import jax
import numpy as np
import tyro

from ivggt_jax.train.data.sampling import select_frames
from ivggt_jax.train.data.scene import Dataset
from ivggt_jax.train.data.transforms import Arrays, color_jitter, draw_query_points, fit_frame, stack_clip

RESOLUTIONS = (
    (518, 392), (518, 336), (518, 294), (518, 266), (518, 210), (518, 154),
    (392, 518), (336, 518), (294, 518), (266, 518),
)  # fmt: skip
"""Widths and heights of the published mixture, landscape first."""
RESOLUTION_WEIGHTS = (2, 2, 2, 2, 2, 1, 1, 1, 1, 1)

ATTEMPTS = 50
"""Failed draws in a row after which the data as a whole counts as broken."""


class Batch(NamedTuple):
    """Clips of one size and length, and their origin."""

    arrays: Arrays | dict[str, jax.Array]
    """images uint8 [B,S,H,W,3], the other arrays of `stack_clip`, and query_points [B,N,2] if requested."""
    names: tuple[str, ...]
    """Name of each clip for messages: dataset, scene and frames."""
    skipped: tuple[str, ...] = ()
    """Clips that were drawn but could not be read, and why."""


class BatchSource(Protocol):
    """Random access to the batches of a run."""

    def __len__(self) -> int:
        """Number of steps of the run."""

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step; always the same for the same step."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Size and composition of batches of recorded clips. Raises ValueError for fields that make no sense."""

    batch_size: int = 1
    """Clips per batch, over all processes."""
    frames: tuple[int, int] = (10, 10)
    """Fewest and most frames of a clip; their number is drawn for each batch."""
    resolutions: tuple[tuple[int, int], ...] = RESOLUTIONS
    """Widths and heights in pixels; one is drawn for each batch."""
    weights: tuple[float, ...] = RESOLUTION_WEIGHTS
    """How often each resolution is drawn, relative to the others."""
    crop_augmentation: int = 16
    """A frame is enlarged by 0 up to this many pixels less one before its centre is cropped; 0 and 1: never."""
    color_jitter: bool = True
    """Change the colours of every clip at random."""
    query_points: int = 0
    """Number of random pixels of the first frame to track."""
    labelled: tyro.conf.Suppress[bool] = True  # The command sets it from the loss and the data.
    """Also provide depth, points and cameras, which needs labelled datasets."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if not 1 <= self.frames[0] <= self.frames[1]:
            raise ValueError(f"frames must be (fewest, most) with 1 ≤ fewest ≤ most, not {self.frames}")
        if not self.resolutions or len(self.resolutions) != len(self.weights):
            raise ValueError(f"{len(self.resolutions)} resolutions need as many weights, not {len(self.weights)}")
        _normalized(self.weights)


class ClipBatches:
    """Batches drawn from weighted datasets.

    Each clip is an independent draw: a dataset by weight, then a start uniformly among all its starts. A clip that cannot be read
    is replaced by another draw and named in the batch.
    """

    def __init__(
        self,
        config: ClipConfig,
        datasets: Sequence[tuple[Dataset, float]],
        steps: int,
        seed: int = 0,
        rows: slice = slice(None),
    ):
        """Check the datasets against the configuration.

        datasets: with their weights. steps: length of the run. rows: the part of a batch that this process loads. Raises
        ValueError for a dataset that lacks requested labels or a scene that is long enough, and for weights that leave nothing to
        draw.
        """
        self._config, self._datasets, self._steps, self._seed = config, datasets, steps, seed
        self._rows = range(config.batch_size)[rows]
        for dataset, _ in datasets:
            if config.labelled and not dataset.labelled:
                raise ValueError(
                    f"{dataset.name} has no labels: ground truth comes from datasets, dataset=folder, not from footage"
                )
            if not dataset.starts(config.frames[1]).any():
                raise ValueError(f"{dataset.name} has no scene of {config.frames[1]} frames or more")
        self._weights = _normalized([weight for _, weight in datasets])

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        config = self._config
        generator = np.random.default_rng([self._seed, step])
        frames = int(generator.integers(*config.frames, endpoint=True))
        size = config.resolutions[generator.choice(len(config.resolutions), p=_normalized(config.weights))]
        clips, names, skipped = [], [], []
        for row in self._rows:
            clip, name, failed = self._clip(step, row, frames, size)
            clips.append(clip)
            names.append(name)
            skipped += failed
        arrays = {key: np.stack([clip[key] for clip in clips]) for key in clips[0]}
        return Batch(arrays, tuple(names), tuple(skipped))

    def _clip(self, step: int, row: int, frames: int, size: tuple[int, int]) -> tuple[Arrays, str, list[str]]:
        """A readable clip, its name, and the clips that could not be read before it. Raises OSError when none can."""
        failed: list[str] = []
        for attempt in range(ATTEMPTS):
            # NumPy ignores trailing zeros in a seed, so row + 1 keeps this stream different from the batch's own.
            generator = np.random.default_rng([self._seed, step, row + 1, attempt])
            dataset = self._datasets[generator.choice(len(self._datasets), p=self._weights)][0]
            starts = np.cumsum(dataset.starts(frames))
            start = int(generator.integers(starts[-1]))
            index = int(np.searchsorted(starts, start, side="right"))
            scene = dataset.scenes[index]
            start -= int(starts[index - 1]) if index else 0
            positions = select_frames(generator, frames, start, len(scene), dataset.sampling)
            name = f"{dataset.name}, {scene.name}, frames {','.join(map(str, positions))}"
            try:
                return self._read(generator, dataset, index, positions, size), name, failed
            except Exception as error:  # decoders raise almost anything on a damaged file
                failed.append(f"{name}: {error or type(error).__name__}")
        raise OSError(f"{ATTEMPTS} clips in a row could not be read; the last was {failed[-1]}")

    def _read(
        self, generator: np.random.Generator, dataset: Dataset, index: int, positions: list[int], size: tuple[int, int]
    ) -> Arrays:
        config = self._config
        jitter = color_jitter(generator)
        fitted = []
        for frame in dataset.scenes[index].frames(positions):
            enlarge = int(generator.integers(max(config.crop_augmentation, 1)))
            frame = fit_frame(frame, *size, enlarge)
            fitted.append(replace(frame, image=jitter(frame.image)) if config.color_jitter else frame)
        clip = stack_clip(fitted, config.labelled)
        if config.query_points:
            clip["query_points"] = draw_query_points(generator, clip, config.query_points)
        return clip


def _normalized(weights: Sequence[float]) -> np.ndarray:
    """Weights normalised to a sum of 1. Raises ValueError where that is impossible."""
    if min(weights) < 0 or not 0 < sum(weights) < np.inf:
        raise ValueError(f"weights must be at least 0, and one of them more, not {list(weights)}")
    return np.asarray(weights, float) / np.sum(weights)
