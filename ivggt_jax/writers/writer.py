"""What all writers share: how one is opened, fed, resumed and closed; and the options of the exports."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ivggt_jax.writers.result import Result


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How results become files. Raises ValueError for a value that makes no sense."""

    confidence: float = 50.0
    """Percentile: a pixel makes a point when its confidence is at least this percentile of its own frame's."""
    voxel: float | None = None
    """Side of the cubes in which points are averaged, in the model's unit; None: from the first frame's extent."""
    max_points: int = 2_000_000
    """Most points of a cloud; the cubes double in size when there would be more."""
    sky: Literal["keep", "drop"] = "keep"
    """Whether pixels that look like sky make points."""
    shared_camera: bool = False
    """Whether COLMAP and nerfstudio get one camera for all frames (the median) or one a frame."""
    images: Path | None = None
    """Where the original images are now, for COLMAP and nerfstudio, if not where they were read; frames not found there, or
    found in another size, are given as the model saw them."""
    dense: int = 100_000
    """Points of the fused cloud that COLMAP's points3D gets beside those that are tracked, so that splats start from many;
    they have no tracks, and bundle adjustment leaves them alone. 0: none."""
    frames_dtype: Literal["float32", "float16"] | None = None
    """Of depth, points and confidences in frames/*.npz; by default float32, float16 where nobody asked for frames."""

    def __post_init__(self) -> None:
        if not 0 <= self.confidence < 100:
            raise ValueError(f"--confidence is a percentile from 0 to below 100, not {self.confidence}")
        if self.voxel is not None and not self.voxel > 0:
            raise ValueError(f"--voxel must be positive, not {self.voxel}")
        if self.dense < 0:
            raise ValueError(f"--dense must be 0 or more points, not {self.dense}")
        if self.max_points < 8:
            raise ValueError(f"--max-points must be at least 8, not {self.max_points}")


class Writer(ABC):
    """One output that grows frame by frame, and is whole on disk after every frame.

    A resumed run opens its writers with the number of frames finished and the `state()` saved with them. What they
    write from there on equals, byte for byte, what the uninterrupted run would have written.
    """

    name: ClassVar[str]
    """What --export calls it."""

    @abstractmethod
    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        """Opens the output in the folder `out`, keeping the first `frames` frames of what is there; 0 starts afresh."""

    @abstractmethod
    def write(self, result: Result) -> None:
        """Adds one finished frame. Raises WriteError when the disk is full."""

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed run needs to know and the output does not hold."""
        return {}

    def record(self) -> dict[str, Any]:
        """What `run.json` should say about this output: scales, counts."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Finishes the output."""


def required(array: np.ndarray | None, output: str, head: str) -> np.ndarray:
    """The array, or a ValueError that says which head the output needs."""
    if array is None:
        raise ValueError(f"{output} needs {head}, which this run does not compute: add {head} to --heads")
    return array
