"""Lists of image files in common formats: plain paths, ffmpeg's `file '…'` lines, TUM's and EuRoC's times with paths."""

import io
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

from ivggt_jax.disk.text import decoded, encoding_of
from ivggt_jax.sources.frame import SourceError
from ivggt_jax.sources.misnamed import misnamed
from ivggt_jax.sources.times import rising, seconds_of, times_of

LIST_SUFFIXES = (".txt", ".csv", ".lst", ".ffconcat")
"""Suffixes of list files."""
LONGEST_LINE = 65_536
"""In bytes; a longer line is not a path."""
HEAD = 512
"""Number of bytes at the start of a stream that are checked for content other than text."""
TIMED = re.compile(r"([0-9]+(?:\.[0-9]*)?)(?:\s*,\s*|\s+)(\S.*)")
"""A time and what follows it."""


@dataclass(frozen=True)
class ImageFile:
    """An image file named by a source."""

    path: Path
    name: str
    """As in `Frame`."""
    timestamp: float | None = None
    """As in `Frame`."""


def listed_images(list_file: Path) -> list[ImageFile]:
    """The files of a list, in order; relative paths start at the list's folder.

    Raises SourceError when the list is not text, is empty, or contains addresses.
    """
    try:
        lines = decoded(list_file.read_bytes()).splitlines()
    except OSError as error:
        raise SourceError(f"{list_file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        what = f"is not a text file with one image path on each line ({error})"
        raise SourceError(f"{list_file}: {misnamed(list_file) or what}") from error
    files = list(_files(lines, list_file.parent, str(list_file)))
    if not files:
        raise SourceError(f"{list_file}: lists no images; put one path on each line")
    if any(file.timestamp is not None for file in files):
        return _named(files, list_file.parent)
    return named_images([file.path for file in files], list_file.parent)


def streamed_images(stream: TextIO | io.BufferedReader, source: str = "-") -> Iterator[ImageFile]:
    """The files in a stream of lines, each yielded as it arrives; relative paths start at the working directory.

    Raises SourceError when the stream is not text, contains addresses, or has times in its first line but not in all.
    """
    latest: float | None = None
    for number, file in enumerate(_files(_lines(stream, source), Path(), source)):
        time = file.timestamp if file.timestamp is not None else seconds_of(file.path.stem)
        if number == 0 or latest is not None:
            if latest is not None and (time is None or time <= latest):
                raise SourceError(f"{source}: {file.name} has no time after {latest:.6f}, which the one before has")
            latest = time
        yield replace(file, timestamp=latest)


def named_images(paths: Iterable[Path], root: Path) -> list[ImageFile]:
    """Image files with their names relative to `root` or to their common folder, and with times if they are named by them."""
    paths = list(paths)
    times: list[float] | list[None] = times_of(paths) or [None] * len(paths)
    return _named([ImageFile(path, path.name, time) for path, time in zip(paths, times, strict=True)], root)


def _named(files: list[ImageFile], root: Path) -> list[ImageFile]:
    whole = [os.path.abspath(file.path) for file in files]
    top = os.path.abspath(root)
    if any(not path.startswith(os.path.join(top, "")) for path in whole):
        top = os.path.commonpath({os.path.dirname(path) for path in whole})
    return [
        replace(file, name=Path(os.path.relpath(path, top)).as_posix()) for file, path in zip(files, whole, strict=True)
    ]


def _lines(stream: TextIO | io.BufferedReader, source: str) -> Iterator[str]:
    """Lines of a stream, read as bytes if possible. Raises SourceError for what is not text."""
    binary: Any = getattr(stream, "buffer", stream)
    if isinstance(binary, io.TextIOBase):
        yield from binary
        return
    try:
        # Peek first, because a PNG file begins with a line that could pass for a name.
        encoding = encoding_of(binary.peek()[:HEAD] if isinstance(binary, io.BufferedReader) else b"")
        if encoding in ("utf-16", "utf-32"):  # their line ends are not single bytes
            yield from binary.read().decode(encoding).splitlines()
            return
        while line := binary.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE:
                raise ValueError("a line has no end")
            yield decoded(line)
    except ValueError as error:
        raise SourceError(
            f"{source}: holds no paths but something else, a picture or a video perhaps ({error}); give the name of that "
            "file to --frames"
        ) from None


def _files(lines: Iterable[str], folder: Path, source: str) -> Iterator[ImageFile]:
    """The files in lines; the first line that counts determines the format."""
    found = (
        text for line in lines if (text := line.strip()) and not (text.startswith("#") and not _there(folder, text))
    )
    first = next(found, None)
    if first is None:
        return
    texts = chain([first], found)
    if not _there(folder, first):
        if first.startswith("ffconcat ") or re.match(r"file\s+\S", first):
            yield from _of_ffmpeg(texts, folder, source)
            return
        if TIMED.fullmatch(first):
            yield from _timed(texts, folder, source)
            return
    for text in texts:
        yield ImageFile(listed_path([text], folder, source), text)


def _of_ffmpeg(texts: Iterable[str], folder: Path, source: str) -> Iterator[ImageFile]:
    """Images of a list for ffmpeg's concat demuxer, with times if every file but the last has a duration."""
    names: list[str] = []
    durations: dict[int, float] = {}
    for text in texts:
        directive, _, rest = text.partition(" ")
        try:
            if directive == "file":
                names.append("".join(shlex.split(rest.strip())))
            elif directive == "duration":
                durations[len(names)] = float(rest)
        except ValueError:
            raise SourceError(f"{source}: `{text}` is no line that ffmpeg reads") from None
    starts = [*accumulate((durations.get(number, 0.0) for number in range(1, len(names))), initial=0.0)][: len(names)]
    timed = len(names) > 1 and durations.keys() >= set(range(1, len(names))) and rising(starts)
    for name, start in zip(names, starts, strict=True):
        yield ImageFile(listed_path([name], folder, source), name, start if timed else None)


def _timed(texts: Iterable[str], folder: Path, source: str) -> Iterator[ImageFile]:
    """Images from lines of a time and a path (TUM's rgb.txt, EuRoC's data.csv); the rest of a line is ignored.

    EuRoC's pictures are in a folder `data` beside the list.
    """
    for text in texts:
        found = TIMED.fullmatch(text)
        if found is None:
            raise SourceError(f"{source}: `{text}` is not a time and a path, as the first line is")
        time = seconds_of(found[1])
        first = re.split(r"[\s,]", found[2])[0]
        path = listed_path([found[2], f"data/{found[2]}", f"data/{first}", first], folder, source)
        yield ImageFile(path, str(path), float(found[1]) if time is None else time)


def listed_path(texts: list[str], folder: Path, source: str) -> Path:
    """The path that an entry of a list refers to: the first of its possible readings that exists, else the first.

    Readings: as written, without quotes, as a file:// address, in Latin-1, with Windows separators. Raises SourceError for other
    addresses.
    """
    readings = list(chain.from_iterable(_readings(text) for text in texts))
    for address in readings:
        if re.match(r"[a-z][a-z0-9+.-]*://", address, re.IGNORECASE):
            raise SourceError(f"{source}: {address} is an address; download it and list the file")
    return folder / next((text for text in readings if _there(folder, text)), _readings(texts[-1])[0])


def _readings(text: str) -> list[str]:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    if text.lower().startswith("file://"):
        text = unquote(urlsplit(text).path, errors="surrogateescape")
    text = os.path.expanduser(text)
    latin = os.fsencode(text).decode("latin-1") if any("\udc80" <= letter <= "\udcff" for letter in text) else text
    return list(dict.fromkeys([text, latin, text.replace("\\", "/")]))


def _there(folder: Path, text: str) -> bool:
    try:
        return os.path.lexists(folder / text)
    except (OSError, ValueError):
        return False
