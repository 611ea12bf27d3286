"""Files that are complete at every moment: replaced atomically, or extended by whole lines.

A process may be killed between any two instructions. Whatever it had finished is then on disk and readable, and nothing is
half-written under its final name. (This covers kills, not power failures: nothing here waits for the disk.)
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ivggt_jax.disk.beside import written_beside


class WriteError(OSError):
    """A file could not be written; names the file and the reason and, for a full disk, the remedy."""


class ResumeError(ValueError):
    """The folder has less than the run to resume had finished."""

    def __init__(self, path: Path, found: int, frames: int):
        super().__init__(
            f"{path} holds {found} finished frames, but the run to resume had finished {frames}: "
            "it was changed or removed since; start again with --overwrite"
        )


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a WriteError that names `path`."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        way = ". Free space and start again; a run goes on with --resume, because its finished frames are on disk"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise WriteError(f"cannot write {path}: {error.strerror or error}{way if full else ''}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file, open for writing and reading, that takes the name `path` if the block ends without an exception.

    Until then it is `.NAME.part` beside it. Folders are created. Raises WriteError, leaving no part behind, when the disk is
    full.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as part, part.open("w+b") as file:
            yield file


class LineFile:
    """A text file that grows by one line per frame.

    Opening it keeps the first `frames` lines after the header, which is one line, and drops the rest. Raises ResumeError when it
    has fewer, WriteError when the disk is full.
    """

    def __init__(self, path: Path, frames: int, header: str = ""):
        self._path = path
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if frames == 0:
                with replacing(path) as file:
                    file.write(f"{header}\n".encode() if header else b"")
            else:
                _truncate(path, frames, frames + bool(header), bool(header))
            # Unbuffered, so that a line reaches the system in one call and survives the process.
            self._file = path.open("ab", buffering=0)

    def append(self, line: str) -> None:
        """Append one line, completely or not at all; `line` has no newline."""
        data = f"{line}\n".encode()
        with naming(self._path):
            size = os.fstat(self._file.fileno()).st_size
            try:
                written = self._file.write(data)
                while written < len(data):  # a disk that fills up accepts a part first and then refuses the rest
                    written += self._file.write(data[written:])
            except OSError:
                self._file.truncate(size)
                raise

    def close(self) -> None:
        """Close the file, which is complete as it is."""
        self._file.close()


def _truncate(path: Path, frames: int, lines: int, header: bool) -> None:
    """Cut a text file after its first `lines` lines."""
    end, found = 0, 0
    if path.is_file():
        with path.open("rb") as file:
            while found < lines and (line := file.readline()).endswith(b"\n"):
                end, found = end + len(line), found + 1
    if found < lines:
        raise ResumeError(path, max(0, found - header), frames)
    os.truncate(path, end)


class NumberedFiles:
    """A folder of one file per frame, named by the frame's index: 000000.npz, 000001.npz, …

    Opening it keeps the files of the first `frames` frames and removes the others, including parts left by a kill. Raises
    ResumeError when there are fewer.
    """

    def __init__(self, folder: Path, suffix: str, frames: int):
        self._folder, self._suffix = folder, suffix
        kept = numbered(folder, suffix)
        if len(kept) < frames:
            raise ResumeError(folder, len(kept), frames)
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for path in (*kept[frames:], *folder.glob(f".*{suffix}.part")):
                path.unlink()

    def path(self, index: int) -> Path:
        """The file of the frame with this index in the source."""
        return self._folder / f"{index:06d}{self._suffix}"


def numbered(folder: Path, suffix: str) -> list[Path]:
    """The files of such a folder in the order of their frames; empty if there is no such folder."""
    return sorted((path for path in folder.glob(f"*{suffix}") if path.stem.isdigit()), key=lambda path: int(path.stem))
