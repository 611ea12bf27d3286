"""What all writers share: how one is opened, fed, resumed and closed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ivggt_jax.options.export import ExportOptions as ExportOptions
from ivggt_jax.writers.result import Result


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
