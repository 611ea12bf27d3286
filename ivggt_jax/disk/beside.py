"""The one way to replace a file or folder: it is written beside its place and renamed when it is complete.

A process may be killed between any two system calls. The name then still refers to the old content, or to the complete new one.
What the killed process had begun is in a part beside it, `.NAME.part`. The next process to write there takes it over; since
nobody reads parts, they may be removed at any time. A part is locked while it is written, so that of two processes one is
refused. (This covers kills, not power failures: nothing here waits for the disk.)
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ivggt_jax.disk.names import fitting_name


@contextmanager
def written_beside(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """An empty file or folder beside `path` that replaces it when the block ends, and is removed when the block fails.

    A folder can only replace nothing or an empty folder. Raises OSError, see `claimed`.
    """
    with claimed(part_of(path), folder=folder) as part:
        yield part
        os.replace(part, path)


def part_of(path: Path) -> Path:
    """Where a file or folder is written before it takes its place."""
    return path.with_name(fitting_name(".", path.name, ".part"))


@contextmanager
def claimed(part: Path, *, folder: bool = False) -> Iterator[Path]:
    """An empty file or folder for this process alone, removed at the end unless it was renamed.

    Leftovers of a killed process are removed first. Raises OSError: BlockingIOError when another process holds it.
    """
    descriptor = _claim(part, folder)
    with _closing(descriptor):
        try:
            yield part
        finally:
            if _names(part, descriptor):  # after a rename, another process may have created a new one
                with suppress(OSError):  # the block's error matters more
                    remove(part)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all its content; does nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _claim(part: Path, folder: bool) -> int:
    """Create or take over the part and lock it. Returns the descriptor that holds the lock."""
    while True:
        if part.is_symlink():  # its target belongs to somebody, and would be emptied
            part.unlink()
        if part.exists() and not (part.is_dir() if folder else part.is_file()):
            _remove_of_another_kind(part)
        if folder:
            part.mkdir(exist_ok=True)
        with _closing(
            os.open(part, (os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT) | os.O_NOFOLLOW, 0o666)
        ) as descriptor:
            _lock(descriptor, part)
            if _names(part, descriptor):  # otherwise its last holder renamed or removed it between opening and locking
                _empty(part, descriptor, folder)
                return os.dup(descriptor)  # this keeps the lock


def _remove_of_another_kind(part: Path) -> None:
    """Remove a folder in place of a file, or the reverse. Raises BlockingIOError when another process holds it."""
    with (
        suppress(FileNotFoundError),
        _closing(os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as descriptor,
    ):
        _lock(descriptor, part)
        if _names(part, descriptor):
            remove(part)


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, part: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(errno.EWOULDBLOCK, "another process is writing it", str(part)) from None
    except OSError:
        pass  # some network file systems have no locks


def _names(part: Path, descriptor: int) -> bool:
    """Whether the path still refers to the open file or folder."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(part), os.fstat(descriptor))
    return False


def _empty(part: Path, descriptor: int, folder: bool) -> None:
    if folder:
        for inside in part.iterdir():
            remove(inside)
    else:
        os.ftruncate(descriptor, 0)
