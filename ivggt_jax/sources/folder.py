"""Image files as a source: a folder, a glob pattern, a list file, or paths on standard input."""

import glob
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

from ivggt_jax.sources.frame import RawFrame, SourceError
from ivggt_jax.sources.image_file import IMAGE_SUFFIXES, read_image


class FileReader:
    """Reads image files in the order given. `paths` may be a lazy, even endless, iterable: then its length is unknown."""

    resumable = True
    dropped = 0

    def __init__(self, paths: Iterable[Path], stride: int = 1, exif: bool = True):
        self._paths = paths
        self._stride = stride
        self._exif = exif
        self.read_ahead = isinstance(paths, list)
        self.length = -(-len(paths) // stride) if isinstance(paths, list) else None
        self.expected_length = self.length

    def raw_frames(self) -> Iterator[RawFrame]:
        """One raw frame for every stride-th path."""
        for index, path in enumerate(self._paths):
            if index % self._stride == 0:
                yield RawFrame(index, None, path.name, str(path), partial(read_image, path, self._exif), path)

    def close(self) -> None:
        """Nothing is held open between frames."""


def folder_images(folder: Path) -> list[Path]:
    """Image files of a folder in natural order, hidden ones left out. Raises SourceError when there are none."""
    try:
        paths = _images(folder.iterdir())
    except OSError as error:
        raise SourceError(f"{folder}: the folder cannot be read ({error.strerror})") from error
    if not paths:
        raise SourceError(
            f"{folder}: no images in this folder (endings {' '.join(IMAGE_SUFFIXES)}); name the folder that holds them"
        )
    return paths


def glob_images(pattern: str) -> list[Path]:
    """Image files that match a glob pattern (`**` goes through sub-folders), as `folder_images`."""
    paths = _images(Path(match) for match in glob.iglob(pattern, recursive=True))
    if not paths:
        raise SourceError(f"{pattern}: no images match this pattern (endings {' '.join(IMAGE_SUFFIXES)})")
    return paths


def listed_images(list_file: Path) -> list[Path]:
    """Paths in a list file, one a line, in the file's order; relative ones start from the list's folder.

    Raises SourceError when the list is no text or empty.
    """
    try:
        paths = list(_lines_to_paths(list_file.read_text(encoding="utf-8").splitlines(), list_file.parent))
    except (OSError, ValueError) as error:
        raise SourceError(f"{list_file}: is not a text file with one image path on each line ({error})") from error
    if not paths:
        raise SourceError(f"{list_file}: lists no images; put one path on each line")
    return paths


def streamed_images(stream: TextIO) -> Iterator[Path]:
    """Paths from a stream of lines, each taken when it comes; relative ones start from the working directory."""
    return _lines_to_paths(stream, Path())


def natural_key(path: Path) -> tuple:
    """Sort key that puts img2 before img10, folder by folder, and does not mind upper and lower case.

    A file whose name is a decimal number, like a time in seconds, lies where the number does: 1.05, 1.5, 1.52.
    """

    def part_key(part: str) -> list[str | int]:
        text = part.casefold()
        is_decimal = re.fullmatch(r"[0-9]+\.[0-9]+\.[a-z]+", text)  # text puts the digits of a fraction in order
        pieces = re.split("([0-9]+)", text, maxsplit=bool(is_decimal))  # text and digits take turns
        return [int(piece) if position % 2 else piece for position, piece in enumerate(pieces)]

    return [part_key(part) for part in path.parts], str(path)


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted({path for path in paths if _is_image(path)}, key=natural_key)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _lines_to_paths(lines: Iterable[str], folder: Path) -> Iterator[Path]:
    for line in lines:
        if line.strip():
            yield folder / Path(line.strip()).expanduser()
