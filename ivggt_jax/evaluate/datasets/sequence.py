"""The record that every data set reader makes: one sequence of frames and what is known to be true about them."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sequence:
    """Frames in order, with the truth about each. Nothing is read from disk before it is asked for but poses.

    Slicing gives a part: `sequence[::2]`, `sequence[:50]`. Raises ValueError when the fields' lengths differ.
    """

    dataset: str
    name: str
    images: tuple[Path, ...]
    """S image files that were found whole."""
    depths: tuple[Path | None, ...] | None = None
    """S files of true depth, None for a frame without; None as a whole where the data set has no depth."""
    read_depth: Callable[[Path], np.ndarray] | None = None
    """Reads one of these."""
    world_from_cam: np.ndarray | None = None
    """float64 [S, 3, 4], OpenCV axes, metres; NaN for a frame whose pose is not known."""
    intrinsics: np.ndarray | None = None
    """float64 [S, 3, 3], in pixels of the image, pixel = integer index; NaN for a frame whose camera is not known."""
    timestamps: np.ndarray | None = None
    """float64 [S], seconds."""
    cloud: Path | None = None
    """A scan (PCD) of the whole scene, in a frame of its own."""
    problems: tuple[str, ...] = ()
    """What was damaged and left out, one line each, with the file's name."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError(
                f"{self.name}: no frame is left" + "".join(f"; {problem}" for problem in self.problems[:3])
            )
        for field in ("depths", "world_from_cam", "intrinsics", "timestamps"):
            value = getattr(self, field)
            if value is not None and len(value) != len(self.images):
                raise ValueError(f"{self.name}: {field} has {len(value)} entries for {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> "Sequence":
        """The frames of a slice, as a sequence."""
        fields = ("images", "depths", "world_from_cam", "intrinsics", "timestamps")
        taken = {field: getattr(self, field)[part] for field in fields if getattr(self, field) is not None}
        return dataclasses.replace(self, **taken)

    def depth(self, index: int) -> np.ndarray | None:
        """True depth of a frame in metres, float32 [H, W], 0 where it is not known; None where the frame has none.

        A file that turns out to be damaged is reported as a warning in the log, and its frame has none.
        """
        if self.depths is None or self.read_depth is None or (path := self.depths[index]) is None:
            return None
        try:
            return self.read_depth(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # all from Pillow's decoders
            logger.warning("%s: %s is left out, its depth cannot be read: %s", self.name, path, error)
            return None


@dataclass(frozen=True)
class Skipped:
    """A sequence that could not be used at all."""

    name: str
    reason: str


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may be asked for; each looks at those that its data set has."""

    subset: int | None = None
    """Bonn, TUM, ScanNet: read the published subset of so many frames (`rgb_110`) instead of the whole recording."""
    registered_depth: bool = False
    """7-Scenes: read `depth.proj.png`, rendered into the colour camera, instead of the sensor's raw `depth.png`."""


PLAIN = ReadOptions()
"""Whole recordings, files as they are."""
