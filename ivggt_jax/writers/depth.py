"""`depth/%06d.png`: depth maps as 16-bit PNG, one per frame, named by its index.

Depth in the model's unit is the pixel's value times `unit`, which the first frame determines and `run.json` contains. 0 means no
depth: masked, not finite, or out of range.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ivggt_jax.writers.files import NumberedFiles, replacing
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer, required

logger = logging.getLogger(__name__)

HEADROOM = 8
"""How many times farther than the first frame's farthest pixel later frames may see."""


class DepthWriter(Writer):
    """Writes one 16-bit PNG for every frame."""

    name = "depth"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._files = NumberedFiles(out / "depth", ".png", frames)
        self._unit = float(state["unit"]) if "unit" in state else None
        self._far = int(state.get("far", 0))  # pixels beyond the unit's range

    def write(self, result: Result) -> None:
        """Write the frame's file."""
        depth = required(result.depth, "depth/", "depth")
        if self._unit is None:
            self._unit = depth_unit(depth)
        mask = result.frame.mask
        self._far += int(np.sum((depth > 65535 * self._unit) & np.isfinite(depth) & (True if mask is None else mask)))
        write_depth_png(self._files.path(result.frame.index), depth_to_16_bit(depth, self._unit, mask))

    def state(self) -> dict[str, np.ndarray]:
        """The unit, once it is known, and the number of pixels beyond its range."""
        return {} if self._unit is None else {"unit": np.array(self._unit), "far": np.array(self._far)}

    def record(self) -> dict[str, Any]:
        """The unit: depth = pixel value · unit."""
        meaning = "depth = pixel value * unit, in the unit of this folder's other files; 0: no depth"
        return {"unit": self._unit, "meaning": meaning, "pixels_too_far": self._far}

    def close(self) -> None:
        """Warn of depth that the files cannot hold; every file is complete."""
        if self._unit is not None and self._far:
            logger.warning(
                "%d pixels are farther than %.3g, %d times the first frame's farthest: they are 0 in depth/, as the unit allows; "
                "--export npz keeps them",
                self._far, 65535 * self._unit, HEADROOM,
            )  # fmt: skip


def depth_unit(depth: np.ndarray) -> float:
    """The step of a video's 16-bit depth maps, a power of two, chosen from its first frame [H, W]."""
    finite = depth[np.isfinite(depth) & (depth > 0)]
    furthest = HEADROOM * float(finite.max()) if finite.size else 1.0
    return 2.0 ** math.ceil(math.log2(furthest / 65535))


def depth_to_16_bit(depth: np.ndarray, unit: float, mask: np.ndarray | None) -> np.ndarray:
    """Depth [H, W] as uint16 [H, W] in steps of `unit`; 0 where masked (False), not finite or out of range."""
    steps = np.nan_to_num(np.rint(depth / unit), nan=0, posinf=0, neginf=0)
    steps[(steps < 0) | (steps > 65535)] = 0
    if mask is not None:
        steps[~mask] = 0
    return steps.astype(np.uint16)


def write_depth_png(path: Path, steps: np.ndarray) -> None:
    """Write uint16 [H, W] as a 16-bit grey PNG, atomically. Raises WriteError when the disk is full."""
    with replacing(path) as file:
        Image.fromarray(steps).save(file, "PNG", compress_level=3)
