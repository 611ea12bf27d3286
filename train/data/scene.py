"""What readers return: labelled frames, scenes of frames, and datasets of scenes."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ivggt_jax.train.data.sampling import Sampling

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledFrame:
    """One image and its labels; unlabelled footage has the image only."""

    image: Image.Image
    """RGB."""
    depth: np.ndarray | None = None
    """float32 [H,W], z in the camera; only finite positive values are known."""
    world_from_cam: np.ndarray | None = None
    """float64 [4,4], OpenCV axes, in the unit of the depth."""
    intrinsics: np.ndarray | None = None
    """float64 [3,3] in pixels, with pixel centres at integers."""


class Scene(ABC):
    """A sequence of frames on disk, read on demand."""

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames in the sequence."""

    @abstractmethod
    def frame(self, position: int) -> LabelledFrame:
        """Read one frame. Raises whatever its decoder raises for a damaged file."""

    def frames(self, positions: Sequence[int]) -> list[LabelledFrame]:
        """Read several frames, in the order of `positions`."""
        return [self.frame(position) for position in positions]


@dataclass(frozen=True)
class Dataset:
    """Scenes of one kind. Raises ValueError when there are none."""

    name: str
    scenes: tuple[Scene, ...]
    sampling: Sampling
    labelled: bool = True
    """Whether frames have depth, pose and intrinsics."""
    broken: tuple[str, ...] = field(default=())
    """Scenes that could not be opened, and why."""

    def __post_init__(self) -> None:
        if not self.scenes:
            raise ValueError(f"{self.name}: no usable scene; unusable: {'; '.join(self.broken) or 'none found at all'}")

    def starts(self, count: int) -> np.ndarray:
        """Number of positions [scene] at which a clip of `count` frames can start, for each scene."""
        return np.maximum([len(scene) - count + 1 for scene in self.scenes], 0)


def open_scenes(
    name: str, places: Iterable[Path], open_scene: Callable[[Path], Scene], sampling: Sampling, labelled: bool = True
) -> Dataset:
    """A dataset of the scenes at `places`; scenes that cannot be opened are logged and left out.

    Raises ValueError when no scene is left.
    """
    scenes, broken = [], []
    for place in places:
        try:
            scenes.append(open_scene(place))
        except Exception as error:  # damaged metadata raises almost anything: KeyError, BadZipFile, JSONDecodeError …
            broken.append(f"{place}: {error or type(error).__name__}")
            logger.warning("%s: scene left out: %s", name, broken[-1])
    return Dataset(name, tuple(scenes), sampling, labelled, tuple(broken))


def read_depth(path: Path, units_per_metre: float) -> np.ndarray:
    """A 16-bit depth image as float32 [H,W]. Raises ValueError for another kind of image, OSError for a damaged one."""
    with Image.open(path) as image:
        values = np.asarray(image)
    if values.ndim != 2 or values.dtype not in (np.uint16, np.int32):
        raise ValueError(f"{path}: a depth image has one 16-bit channel, not {values.dtype} {values.shape}")
    return values.astype(np.float32) / units_per_metre


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name. Raises whatever NumPy raises for a damaged one."""
    with path.open("rb") as file, np.load(file) as arrays:  # opened here, because NumPy leaves a damaged file open
        return dict(arrays)
