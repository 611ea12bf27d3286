"""Image files as a source: a folder, a glob pattern, or files named by a list or stream."""

import glob
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice, takewhile
from pathlib import Path

import numpy as np

from ivggt_jax.options.words import counted
from ivggt_jax.sources.frame import Mark, Picture, RawFrame, SourceError
from ivggt_jax.sources.image_file import IMAGE_SUFFIXES, OTHER_SUFFIXES, grey_16_of, pages, read_picture
from ivggt_jax.sources.levels import FIRST, Stretch
from ivggt_jax.sources.lists import LIST_SUFFIXES, ImageFile, listed_images, named_images, streamed_images
from ivggt_jax.sources.video import VIDEO_SUFFIXES

logger = logging.getLogger(__name__)

DECIMAL = re.compile(r"[0-9]+\.([0-9]+)\.[a-z]+")
"""Name of a file that is called by a decimal number, and the digits of its fraction."""
NAMED = 3
"""Number of files named in a message; the rest are only counted."""
WITH_PAGES = (
    ".tif",
    ".tiff",
    ".png",
    ".apng",
    ".webp",
    ".gif",
    ".heic",
    ".heif",
    ".heics",
    ".heifs",
    ".avif",
    ".avifs",
)
"""Suffixes of files that may contain several pictures."""


class FileReader:
    """Reads image files in the given order. `files` may be a lazy, even endless, iterable; its length is then unknown."""

    resumable = True
    dropped = 0

    def __init__(
        self, files: Iterable[ImageFile], stride: int = 1, exif: bool = True, source: str = "", left_out: int = 0
    ):
        """source: the name that the user gave. left_out: number of other files there that are not read."""
        self.left_out = left_out
        self._files = files
        self._stride = stride
        self._exif = exif
        self.read_ahead = isinstance(files, list)
        self.length = -(-len(files) // stride) if isinstance(files, list) else None
        self.expected_length = self.length
        self._first = [file.path for file in files[: FIRST * stride : stride]] if isinstance(files, list) else []
        self._stretch = Stretch(source, self._first_grey)
        self._told_of_pages = False

    def raw_frames(self) -> Iterator[RawFrame]:
        """One raw frame for every stride-th file."""
        return self._raw_frames(0)

    def raw_frames_from(self, mark: Mark) -> Iterator[RawFrame]:
        """The same, starting at a given file."""
        return self._raw_frames(mark.index)

    def _raw_frames(self, start: int) -> Iterator[RawFrame]:
        for index, file in enumerate(islice(self._files, start, None), start):
            if index % self._stride == 0:
                self._first = self._first or [file.path]
                yield RawFrame(
                    index, file.timestamp, file.name, str(file.path), partial(self._read, file.path), file.path
                )

    def close(self) -> None:
        """Close a pipe of paths, unless a thread still waits for its next line: that ends with the process."""
        if isinstance(self._files, Generator):
            with suppress(ValueError):
                self._files.close()

    def _read(self, path: Path) -> Picture:
        picture = read_picture(path, self._exif, self._stretch)
        if not self._told_of_pages and path.suffix.lower() in WITH_PAGES and (count := len(pages(path))) > 1:
            self._told_of_pages = True
            logger.warning("%s holds %d pictures: of it, and of others like it, only the first is taken; name it alone to "
                           "have them all", path, count)  # fmt: skip
        return picture

    def _first_grey(self) -> Iterator[np.ndarray]:
        return (values for path in self._first if (values := grey_16_of(path)) is not None)


def find_images(spec: str, path: Path) -> tuple[Iterable[ImageFile], Iterable[Path]]:
    """The image files that a source names, and other files next to them. Raises SourceError when there are none."""
    if spec == "-":
        return streamed_images(sys.stdin), ()
    if path.is_dir():
        return named_images(folder_images(path), path), path.iterdir()
    if path.is_file():
        is_list = path.suffix.lower() in LIST_SUFFIXES
        return listed_images(path) if is_list else named_images([path], path.parent), ()
    if path.is_fifo():
        return _piped_images(path), ()
    if glob.has_magic(spec):
        matches = map(Path, glob.iglob(str(path), recursive=True))
        return named_images(glob_images(str(path)), _fixed_part(path)), matches
    if path.exists() or path.is_symlink():
        what = "is a device" if path.exists() else f"is a link to {os.readlink(path)}, and there is no such file"
        raise SourceError(f"{spec}: {what}; name a folder, a file, or - for paths on standard input")
    raise SourceError(f"{spec}: there is no such file or folder (looked in {Path.cwd()})")


def folder_images(folder: Path) -> list[Path]:
    """Image files of a folder in natural order, without hidden ones. Raises SourceError when there are none."""
    entries = _entries(folder)
    return _images(
        entries,
        f"{folder}: no images in this folder",
        "name the folder that holds them",
        partial(_inside, folder, entries),
    )


def glob_images(pattern: str) -> list[Path]:
    """Image files that match a glob pattern (`**` includes sub-folders), otherwise like `folder_images`."""
    matches = map(Path, glob.iglob(pattern, recursive=True))
    return _images(matches, f"{pattern}: no images match this pattern", "mind the quotes around it")


def left_out(frames: str, paths: Iterable[Path]) -> int:
    """Number of paths that look like pictures or videos but are not read; a warning names the first ones."""
    found = in_natural_order(path for path in paths if _is_there(path, OTHER_SUFFIXES))
    if found:
        names = ", ".join(path.name for path in found[:NAMED]) + (", …" if len(found) > NAMED else "")
        logger.warning(
            "%s: %d pictures or videos in it are left out, for their kind is not read from a folder: %s; convert them to "
            "JPEG or PNG", frames, len(found), names,
        )  # fmt: skip
    return len(found)


def in_natural_order(paths: Iterable[Path]) -> list[Path]:
    """The paths with img2 before img10, folder by folder, ignoring case.

    Files that are named by decimal numbers, such as times in seconds, are in the order of their values: 1.05, 1.5, 1.52. Decimal
    numbers have equally many digits, or drop the last zeros; if neither is so, as with 1.9 and 1.10, the second number counts.
    """
    paths = list(paths)
    fractions = [found[1] for path in paths if (found := DECIMAL.fullmatch(path.name.casefold()))]
    by_value = len({len(digits) for digits in fractions}) == 1 or not any(re.fullmatch("[0-9]+0", x) for x in fractions)

    def part_key(part: str) -> list[str | int]:
        text = part.casefold()
        whole = by_value and DECIMAL.fullmatch(text) is not None  # as text, the digits of a fraction sort by value
        pieces = re.split("([0-9]+)", text, maxsplit=whole)  # text and digits alternate
        return [int(piece) if position % 2 else piece for position, piece in enumerate(pieces)]

    return sorted(paths, key=lambda path: ([part_key(part) for part in path.parts], str(path)))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise SourceError(f"{folder}: the folder cannot be read ({error.strerror})") from error


def _inside(folder: Path, entries: list[Path]) -> str | None:
    """The command for a folder without images that has folders of images, or videos; None for others."""
    if videos := sum(_is_there(path, VIDEO_SUFFIXES) for path in entries):
        return f"it holds {counted(videos, 'video')}: {shlex.join(['ivggt', 'batch', str(folder)])}"
    below = _folders(folder)
    for inner in (*below, *(deeper for path in below for deeper in _folders(path))):
        with suppress(OSError):
            if pictures := sum(_is_there(path, IMAGE_SUFFIXES) for path in inner.iterdir()):
                return f"{inner} holds {counted(pictures, 'picture')}: {shlex.join(['ivggt', str(inner)])}"
    return None


def _folders(folder: Path) -> list[Path]:
    """The visible folders in a folder, in natural order; none if it cannot be read."""
    with suppress(OSError):
        found = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return in_natural_order(found)
    return []


def _images(paths: Iterable[Path], none: str, way: str, inside: Callable[[], str | None] = lambda: None) -> list[Path]:
    """The images among the paths, in natural order. If there are none, raises SourceError with the given words.

    inside: what to name instead, if that is known.
    """
    found = list(paths)
    images = in_natural_order({path for path in found if _is_there(path, IMAGE_SUFFIXES)})
    if not images:
        endings = {path.suffix.lower() for path in found if path.suffix} - set(IMAGE_SUFFIXES)
        held = inside() or (f"it holds {' '.join(sorted(endings)[:8])}" if endings else way)
        raise SourceError(
            f"{none} that are read (.jpg .png .heic .tif and {len(IMAGE_SUFFIXES) - 4} other endings); {held}"
        )
    return images


def _is_there(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether a path is a visible file with one of the suffixes; a broken link counts, and cannot be read."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and not path.is_dir()


def _piped_images(pipe: Path) -> Iterator[ImageFile]:
    """Paths from a named pipe, or one made by a shell: <(ls …)."""
    with pipe.open("rb") as stream:
        yield from streamed_images(stream, str(pipe))


def _fixed_part(pattern: Path) -> Path:
    """The folder that a pattern's matches are in, as far as it is fixed."""
    parts = list(takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    return Path(*parts[: len(pattern.parts) - 1])
