"""Unlabelled footage for distillation: folders of frames, and videos."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ivggt_jax.sources.folder import folder_images, left_out
from ivggt_jax.sources.frame import SourceError
from ivggt_jax.sources.image_file import IMAGE_SUFFIXES, grey_16_of, read_picture
from ivggt_jax.sources.levels import FIRST, Stretch
from ivggt_jax.sources.video import VIDEO_SUFFIXES, VideoReader
from ivggt_jax.train.data.sampling import Sampling
from ivggt_jax.train.data.scene import Dataset, LabelledFrame, Scene, open_scenes

VIDEO_RATE = 10.0
"""Frames per second at which videos are sampled."""
ROUNDED = 0.02
"""Share of a sampled frame by which a file's times may be rounded."""


class FolderScene(Scene):
    """Image files of one folder, in natural order. Raises SourceError when there are none."""

    def __init__(self, folder: Path):
        self.name = str(folder)
        self._paths = folder_images(folder)
        self._stretch = Stretch(self.name, self._first_grey)

    def __len__(self) -> int:
        return len(self._paths)

    def frame(self, position: int) -> LabelledFrame:
        """Read one image, converting 16-bit grey as `infer` does."""
        return LabelledFrame(read_picture(self._paths[position], True, self._stretch).image)

    def _first_grey(self) -> Iterator[np.ndarray]:
        return (values for path in self._paths[:FIRST] if (values := grey_16_of(path)) is not None)


class VideoScene(Scene):
    """A video at ten frames per second, or its own rate if lower. Raises SourceError when it cannot be opened."""

    def __init__(self, path: Path):
        self.name = str(path)
        self._path = path
        reader = VideoReader(path, fps=VIDEO_RATE)
        if not reader.seconds or not reader.rate:
            raise SourceError(f"{path}: its duration is unknown; convert it to MP4 first")
        self._rate = min(VIDEO_RATE, reader.rate)
        last = reader.seconds - 1 / reader.rate  # when the last frame begins
        self._length = int(last * self._rate + ROUNDED) + 1

    def __len__(self) -> int:
        return self._length

    def frame(self, position: int) -> LabelledFrame:
        """Decode one frame."""
        return self.frames([position])[0]

    def frames(self, positions: Sequence[int]) -> list[LabelledFrame]:
        """Decode once from the first to the last of the positions. Raises SourceError when the video ends earlier."""
        first, last = min(positions), max(positions)
        found = {}
        # A slower video: all frames, starting half a frame earlier because times may be rounded.
        start = first / VIDEO_RATE if self._rate == VIDEO_RATE else max(0.0, first - 0.5) / self._rate
        reader = _OpenedBefore(self._path, fps=VIDEO_RATE, start=start)
        for position, raw in enumerate(reader.raw_frames(), start=first):
            if position in positions:
                found[position] = LabelledFrame(raw.read().image)
            if position == last:
                return [found[position] for position in positions]
        raise SourceError(f"{self._path}: ends before frame {last} (at {self._rate:g} frames per second)")


class _OpenedBefore(VideoReader):
    """A reader that does not tell again, for every clip, what was told about the video when its scene was opened."""

    def _tell(self, *_: object) -> None:
        pass


def clips(paths: Sequence[Path], sampling: Sampling | None = None) -> Dataset:
    """All folders of images and all videos at or below `paths`, as one dataset without labels.

    Raises ValueError when a path does not exist or nothing usable is found.
    """
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: there is no such folder or video")
    places = [place for path in paths for place in _places(path)]
    name = "clips " + " ".join(map(str, paths))
    return open_scenes(name, places, _open, sampling or Sampling(max_interval=8, video=1.0), labelled=False)


def _places(path: Path) -> list[Path]:
    """Videos, and folders with images, at or below a path, sorted; other files that look like pictures are reported."""
    found = [path, *sorted(path.rglob("*"))]
    left_out(str(path), (inner for inner in found if inner.suffix.lower() not in VIDEO_SUFFIXES))
    folders = {inner.parent for inner in found if inner.suffix.lower() in IMAGE_SUFFIXES and inner.is_file()}
    videos = {inner for inner in found if inner.suffix.lower() in VIDEO_SUFFIXES and inner.is_file()}
    return sorted(folders | videos)


def _open(path: Path) -> Scene:
    return FolderScene(path) if path.is_dir() else VideoScene(path)
