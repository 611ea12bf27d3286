"""The record that every data set reader returns: a sequence of frames and the truth about them."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sequence:
    """Frames in order, with the truth about each. Apart from poses, nothing is read from disk before it is used.

    Slicing gives a part: `sequence[::2]`, `sequence[:50]`. Raises ValueError when the fields' lengths differ.
    """

    dataset: str
    name: str
    images: tuple[Path, ...]
    """S complete image files."""
    depths: tuple[Path | None, ...] | None = None
    """S files of true depth, None for a frame without; None instead of a tuple if the data set has no depth."""
    read_depth: Callable[[Path], np.ndarray] | None = None
    """Reads a depth file; its errors name the file."""
    world_from_cam: np.ndarray | None = None
    """float64 [S, 3, 4], OpenCV axes, metres; NaN for a frame with unknown pose."""
    intrinsics: np.ndarray | None = None
    """float64 [S, 3, 3], in pixels of the image, with pixel centres at integers; NaN for a frame with unknown camera."""
    cloud: Path | None = None
    """A scan (PCD) of the whole scene, in a coordinate frame of its own."""
    problems: tuple[str, ...] = ()
    """Damaged parts that were left out, a line each, with the file's name."""
    unreadable: dict[Path, str] = field(default_factory=dict)
    """A line for each depth file that turned out to be damaged when `depth` read it."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError(
                f"{self.name}: no frame is left" + "".join(f"; {problem}" for problem in self.problems[:3])
            )
        for name in ("depths", "world_from_cam", "intrinsics"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.images):
                raise ValueError(f"{self.name}: {name} has {len(value)} entries for {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> "Sequence":
        """The frames of a slice, as a sequence."""
        names = ("images", "depths", "world_from_cam", "intrinsics")
        taken = {name: getattr(self, name)[part] for name in names if getattr(self, name) is not None}
        return dataclasses.replace(self, **taken)

    @property
    def all_problems(self) -> tuple[str, ...]:
        """The problems, and those of depth files that were read so far."""
        return (*self.problems, *self.unreadable.values())

    def depth(self, index: int) -> np.ndarray | None:
        """True depth of a frame in metres, float32 [H, W], 0 where unknown; None if the frame has none.

        If the file turns out to be damaged, None is returned; a warning is logged, once, and kept in `unreadable`.
        """
        if self.depths is None or self.read_depth is None or (path := self.depths[index]) is None:
            return None
        try:
            return self.read_depth(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # all from Pillow's decoders
            if path not in self.unreadable:
                self.unreadable[path] = str(error)
                logger.warning("%s: a depth map cannot be read and is left out: %s", self.name, error)
            return None


@dataclass(frozen=True)
class Skipped:
    """A sequence that could not be used at all."""

    name: str
    reason: str


@dataclass(frozen=True)
class ReadOptions:
    """Options of the readers; `Dataset.takes` names those that apply to a data set."""

    subset: int | None = None
    """Bonn, TUM, ScanNet: read the published subset of n frames (`rgb_110`) instead of the whole recording."""
    registered_depth: bool = False
    """7-Scenes: read `depth.proj.png`, registered to the colour camera, instead of the sensor's raw `depth.png`."""


PLAIN = ReadOptions()
"""Whole recordings, with raw depth."""
