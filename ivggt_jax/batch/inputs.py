"""The sources of a job: from folders, patterns, lists and manifests, local or at addresses that fsspec supports."""

import glob
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ivggt_jax.disk.beside import remove, written_beside
from ivggt_jax.disk.names import fitting_name
from ivggt_jax.disk.strict_json import parse_json
from ivggt_jax.disk.text import decoded
from ivggt_jax.sources import SourceError
from ivggt_jax.sources.image_file import IMAGE_SUFFIXES
from ivggt_jax.sources.lists import listed_path
from ivggt_jax.sources.recording import SUFFIXES as RECORDINGS
from ivggt_jax.sources.recording import is_bag
from ivggt_jax.sources.video import VIDEO_SUFFIXES

MOVING = (*VIDEO_SUFFIXES, *RECORDINGS)
"""Suffixes of files that count as one source each in a folder."""
HTTP = ("http://", "https://")
LIVE = ("cam:", "rtsp://", "rtsps://", "udp://")
TABLES = (".jsonl", ".parquet")
FILES = ("masks", "depth", "camera", "images", "align-to", "scale-from")
"""Options whose values are, or may be, files and folders."""
OF_THE_JOB = ("frames", "out", "overwrite", "resume", "view", "port")
"""Options that no row of a table may set, because the job decides where results go, and what is done again."""
CALIBRATION = re.compile(r"^(\w+:)?([^#]*)(#.*)?$", re.DOTALL)
"""A kind of lens, a file, and the name of one of its cameras."""


@dataclass(frozen=True)
class Input:
    """A source and its own options, as words of `infer`'s command line."""

    source: str
    options: tuple[str, ...] = ()


def find_inputs(names: tuple[str, ...]) -> list[Input]:
    """Expand names to sources, in order, without duplicates, as absolute paths.

    Raises SourceError for a pattern without matches, a live source, an invalid list, one source with different options, and a
    name that is not UTF-8, which no manifest can hold. Faults of a source itself appear when it is its turn.
    """
    found: dict[str, Input] = {}
    for name in names:
        for item in _inputs(name):
            if any("\ud800" <= letter <= "\udfff" for letter in item.source):
                raise SourceError(f"{item.source!r}: the name is not in UTF-8: rename it")
            other = found.setdefault(item.source, item)
            if other != item:
                options = " and with ".join(" ".join(each.options) or "none" for each in (other, item))
                raise SourceError(
                    f"{item.source} stands there twice, with the options {options}: a job runs a source once"
                )
    if not found:
        raise SourceError("there are no sources: name videos, folders, patterns or lists")
    return list(found.values())


@contextmanager
def local(source: str, folder: Path) -> Iterator[str]:
    """A source as a local path: itself, or for an address a copy below `folder`, which exists until the block ends.

    Raises SourceError when it cannot be fetched.
    """
    if "://" not in source:
        yield source
        return
    files, path = _opened(source)
    is_http = source.startswith(HTTP)
    name = PurePosixPath((path.partition("?")[0] if is_http else path).rstrip("/"))  # without a signature
    if name.name in ("", ".."):
        name = PurePosixPath("input")
    place = folder / fitting_name("", name.stem, name.suffix)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove(place)  # what a killed process left
        whole_folder = files.isdir(path)
        with written_beside(place, folder=whole_folder) as part:
            if whole_folder:
                for inside in files.find(path):
                    below = PurePosixPath(inside).relative_to(PurePosixPath(path))
                    if ".." in below.parts:  # a key of an object store may be any text
                        raise ValueError(f"{inside} would be written outside the job's folder")
                    target = part / below
                    target.parent.mkdir(parents=True, exist_ok=True)
                    files.get_file(inside, str(target))
            else:
                files.get_file(path, str(part))
    except Exception as error:  # each kind of address raises its own errors
        raise SourceError(f"{source}: cannot be fetched ({_words(error)})") from error
    try:
        yield str(place)
    finally:
        remove(place)
        with suppress(OSError):
            folder.rmdir()


def _inputs(name: str, lists: tuple[Path, ...] = ()) -> Iterator[Input]:
    """Expand one name; `lists` are the nested lists that it was found in, the last one with the name."""
    _check_not_live(name)
    if "://" in name:
        yield from _at_address(name)
        return
    path = Path(name).expanduser().absolute()
    if path.suffix.lower() in TABLES and path.is_file():
        yield from _of_table(path)
    elif path.suffix.lower() == ".txt" and path.is_file():
        if any(path.samefile(earlier) for earlier in lists):
            raise SourceError(f"{path}: lists itself")
        for line in map(str.strip, _lines(path)):
            if line and not line.startswith("#"):
                yield from _inputs(_from(path.parent, line, path), (*lists, path))
    elif path.is_dir():
        inside = sorted(item for item in path.iterdir() if not item.name.startswith("."))
        yield from map(Input, _of_folder(str(path), [str(item) for item in inside]))
    elif not path.exists() and (pattern := _pattern(path, lists[-1].parent if lists else Path.cwd())):
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise SourceError(f"{name}: nothing matches")
        yield from map(Input, matches)
    else:
        yield Input(str(path))


def _check_not_live(name: str) -> None:
    if name.startswith(LIVE) or name == "-":
        raise SourceError(f"{name}: a camera is no part of a job: run it with infer")


def _pattern(path: Path, folder: Path) -> str | None:
    """The path as a pattern, None if it is none. Brackets in the name of the folder where it starts are no pattern."""
    start, below = (str(folder), str(path.relative_to(folder))) if path.is_relative_to(folder) else ("", str(path))
    return os.path.join(glob.escape(start), below) if glob.has_magic(below) else None


def _of_folder(folder: str, inside: list[str]) -> list[str]:
    """The folder itself if it holds pictures or is a recording, else the videos and recordings in it."""
    kinds = {PurePosixPath(item).suffix.lower() for item in inside}
    if kinds & set(IMAGE_SUFFIXES) or is_bag(PurePosixPath(item).name for item in inside):
        return [folder]
    return [item for item in inside if PurePosixPath(item).suffix.lower() in MOVING] or [folder]


def _at_address(address: str) -> Iterator[Input]:
    if address.startswith(HTTP):  # HTTP has no folders to look into
        yield Input(address)
        return
    files, path = _opened(address)
    try:
        if glob.has_magic(address):
            found = sorted(files.glob(path))
        else:
            found = _of_folder(path, sorted(files.ls(path, detail=False))) if files.isdir(path) else [path]
    except Exception as error:
        raise SourceError(f"{address}: cannot be looked at ({_words(error)})") from error
    if not found:
        raise SourceError(f"{address}: nothing matches")
    yield from (Input(files.unstrip_protocol(item)) for item in found)


def _of_table(path: Path) -> Iterator[Input]:
    """Rows of a manifest: the column `source`, and options of `infer` in the others; empty cells are not passed on."""
    try:
        if path.suffix.lower() == ".jsonl":
            lines = [line.encode("utf-8", "surrogateescape") for line in _lines(path) if line.strip()]
            rows = [parse_json(line, f"row {number}") for number, line in enumerate(lines, 1)]
        else:
            from pyarrow import parquet

            rows = parquet.read_table(path).to_pylist()
    except ImportError:
        raise SourceError(f"{path}: Parquet needs pyarrow: pip install 'ivggt_jax[ray]'") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: is not a table of sources ({_words(error)})") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("source"), str):
            raise SourceError(f"{path}, row {number}: has no source: a column of that name must hold it")
        _check_not_live(row["source"])
        if refused := [name for name in row if name.replace("_", "-") in OF_THE_JOB]:
            raise SourceError(
                f"{path}: the column {refused[0]} is the job's: only options of one source may be columns"
            )
        yield Input(_from(path.parent, row["source"], path), _words_of(row, path.parent))


def _words_of(row: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Options as words. Relative paths start at the table's folder; what is not there is taken as written, perhaps as a topic."""
    words: list[str] = []
    for name, value in row.items():
        option = name.replace("_", "-")
        # Of a column of whole numbers with empty cells, some programs make floats, and NaN of the cells.
        if name == "source" or value is None or value != value:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            values = value if isinstance(value, list) else [value]
            texts = (f"{x:.0f}" if isinstance(x, float) and x.is_integer() else str(x) for x in values)
            words += [f"--{option}", *(_there(text, folder) if option in FILES else text for text in texts)]
    return tuple(words)


def _there(text: str, folder: Path) -> str:
    """The path below the folder if it exists, else the text. A camera's may stand after `fisheye:` and before `#NAME`."""
    for before, path, after in (("", text, ""), *CALIBRATION.findall(text)):
        if path and (place := folder / Path(path).expanduser()).exists():
            return f"{before}{place}{after}"
    return text


def _lines(path: Path) -> list[str]:
    """Lines of a list in any encoding. Raises SourceError for what is not text."""
    try:
        return re.split(r"\r\n?|\n", decoded(path.read_bytes()))  # JSON may hold what else is a line end in Unicode
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: is not a list of sources ({_words(error)})") from error


def _from(folder: Path, name: str, source: Path) -> str:
    """A name as meant in a list: relative paths start at the list's folder."""
    elsewhere = "://" in name and not name.lower().startswith("file://")
    return name if elsewhere or name.startswith(LIVE) else str(listed_path([name], folder, f"{source}"))


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise SourceError(f"{address}: addresses need fsspec: pip install 'ivggt_jax[ray]'") from None
    try:
        files, path = url_to_fs(address)
    except Exception as error:
        raise SourceError(f"{address}: is no address that fsspec knows ({_words(error)})") from error
    return files, path


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
