"""The interface of all writers: opening, feeding, resuming and closing."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ivggt_jax.options.export import ExportOptions as ExportOptions
from ivggt_jax.writers.result import Result


class Writer(ABC):
    """One output that grows frame by frame, and is complete on disk after every frame.

    A resumed run opens its writers with the number of finished frames and the `state()` saved with them. From there they write,
    byte for byte, what the uninterrupted run would have written.
    """

    name: ClassVar[str]
    """Its name in --export."""

    @abstractmethod
    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        """Open the output in the folder `out`, keeping the first `frames` frames of existing files; 0 starts over."""

    @classmethod  # noqa: B027 - most writers need nothing
    def check(cls, first: Result) -> None:
        """Raises ValueError when it cannot be made of a run with this first frame, or lacks a package."""

    @abstractmethod
    def write(self, result: Result) -> None:
        """Add one finished frame. Raises WriteError when the disk is full."""

    def state(self) -> dict[str, np.ndarray]:
        """What a resumed run needs that is not in the output itself."""
        return {}

    def record(self) -> dict[str, Any]:
        """The entry in `run.json` for this output: scales, counts."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Finish the output."""


def required(array: np.ndarray | None, output: str, head: str) -> np.ndarray:
    """The array. Raises ValueError naming the required head if it is None."""
    if array is None:
        raise ValueError(f"{output} needs {head}, which this run does not compute: add {head} to --heads")
    return array
