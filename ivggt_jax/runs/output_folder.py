"""The output folder of a run: results of an earlier run in it, and locking."""

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ivggt_jax.disk.names import fitting_name
from ivggt_jax.options.export import FORMATS
from ivggt_jax.options.words import counted
from ivggt_jax.runs.resume import STATE_FILE, Unfinished, read_state
from ivggt_jax.sources.lists import LIST_SUFFIXES, listed_images
from ivggt_jax.sources.source import full_name
from ivggt_jax.weights.tensor_file import CheckpointError
from ivggt_jax.writers.files import naming
from ivggt_jax.writers.run_json import OUTPUTS_FILE, read_run_json, recorded

MARKER = ".ivggt_jax"
"""An empty file that marks every folder that a run wrote to, created at its start."""
OUTPUTS = (
    *dict.fromkeys(name for known in FORMATS.values() for name in known.files),
    *("submaps.txt", "loops.txt", "places.bin", "corrected", "map.json"),
    *("refined", "refinement.json", "aligned", "alignment.json", OUTPUTS_FILE),
    *(".*.part", "run.json", STATE_FILE, MARKER),
)
"""Everything that a run or an export writes into the top of its folder. Nothing else there is ever removed."""
LOCK = ".lock"
USUAL_NAMES = {"frames", "images", "image", "imgs", "img", "rgb", "color", "colour", "pictures", "input", "data"}
"""Common names for folders of pictures; the scene's name is then that of the parent folder."""


class Busy(ValueError):
    """Another process is writing to the folder."""


@dataclass(frozen=True)
class EarlierRun:
    """What an earlier run left in a folder."""

    description: str
    """For people: "a run of /scenes/room that was stopped, with 12 frames saved"."""
    source: str | None = None
    """Its source in the form of `full_name`, if known."""
    finished: bool = False
    failed: str | None = None
    """Why the end of a finished run failed, after all frames."""
    settings: Any = None
    """The options of a finished run, from its `run.json`, which may have been edited."""
    unfinished: Unfinished | None = None
    """What is needed to resume, if the run can be resumed."""


def default_out(frames: str) -> Path:
    """ivggt_out/ plus the name of the scene.

    The name is that of a file, of a camera's address, or of the folder of pictures; for a folder called `frames`, `images` or the
    like it is the parent folder's.
    """
    name = full_name(frames)
    if "://" in name:
        return Path("ivggt_out") / fitting_name("", re.sub(r"[^\w.-]+", "-", name.partition("://")[2]).strip("-"))
    path = whole = Path(os.path.normpath(name))
    while glob.has_magic(path.name) and not path.exists():
        path = path.parent
    while path.name.lower() in USUAL_NAMES and path.parent.name:
        path = path.parent
    if frames == "-":
        return Path("ivggt_out") / "stdin"
    is_folder = path != whole or path.is_dir()
    return Path("ivggt_out") / ((path.name if is_folder else path.stem) or "run")


def earlier_run(out: Path) -> EarlierRun | None:
    """What an earlier run left in the folder; None if nothing. Raises CheckpointError when it is damaged."""
    unfinished = read_state(out)
    if unfinished is not None:
        frames, source = unfinished.frames, _text(recorded(unfinished.options, "frames"))
        saved = (
            f"that was stopped, with {counted(frames)} saved" if frames else "that was stopped before its first save"
        )
        return EarlierRun(f"a run of {source or 'an unknown source'} {saved}", source, unfinished=unfinished)
    record = _record(out)
    if type(frames := recorded(record, "frames")) is int:
        source = _text(recorded(record, "settings", "source", "frames"))
        description = f"a finished run of {counted(frames)} of {source or 'an unknown source'}"
        failed = _text(recorded(record, "failed"))
        return EarlierRun(description, source, finished=True, failed=failed, settings=recorded(record, "settings"))
    if any(path.name != MARKER for path in _outputs(out)):  # the mark alone: killed before it began
        return EarlierRun("what is left of a run that cannot be resumed")
    return None


def check_replaceable(out: Path, option: str = "--out") -> None:
    """Raises ValueError when the folder has files under the names of results but no run wrote to it.

    `option` is the option that names another folder.
    """
    found = _outputs(out)
    if found and not _is_a_runs(out):
        names = ", ".join(path.name for path in found)
        raise ValueError(
            f"{out} holds {names}, which may be no results, since no run is known there: choose another {option}"
        )


def check_over(out: Path) -> None:
    """Raises ValueError when the folder holds an unfinished run, which would go on with the files of an export."""
    if os.path.lexists(out / STATE_FILE):
        raise ValueError(
            f"{out} holds an unfinished run: use --into another folder, or finish it with ivggt … --resume"
        )


def begin_anew(out: Path) -> None:
    """Remove what an earlier run left, and nothing else, and mark the folder as a run's.

    Raises WriteError when it cannot, ValueError like `check_replaceable`.
    """
    check_replaceable(out)
    # First what would make the rest look like a finished run, or like one that can be resumed; last what allows to remove more.
    order = {"run.json": 0, STATE_FILE: 1, MARKER: 3}
    for path in sorted(_outputs(out), key=lambda path: order.get(path.name, 2)):
        with naming(path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    mark(out)


def mark(out: Path) -> None:
    """Mark the folder as one that a run or an export wrote to. Raises WriteError when it cannot."""
    with naming(out / MARKER):
        (out / MARKER).touch()


def mark_of(out: Path) -> tuple[int, int] | None:
    """Identity of the folder's mark, which changes when a run begins anew; None if there is none."""
    try:
        mark = (out / MARKER).stat()
    except OSError:
        return None
    return mark.st_ino, mark.st_mtime_ns


def describe(out: Path) -> str | None:
    """A description of the folder's content for people, whatever its state; None if it is empty."""
    try:
        earlier = earlier_run(out)
    except CheckpointError:
        return "a damaged run"
    return earlier.description if earlier else None


def check_inputs_outside(out: Path, frames: str, others: Iterable[Path | None] = ()) -> None:
    """Raises ValueError when an input is in a place where results go, and might be replaced or removed.

    `frames` is a file, a folder, a pattern or a list file (.txt) of images; the others are files and folders.
    """
    folder = out.resolve()
    for path in (*_with_what_it_names(frames), *(path for path in others if path is not None)):
        place = Path(os.path.expanduser(path)).resolve()
        if folder in place.parents and place.relative_to(folder).parts[0] in OUTPUTS:
            raise ValueError(f"{path} lies where results are written, in {out}: choose another --out")


@contextlib.contextmanager
def locked(out: Path, option: str = "--out") -> Iterator[None]:
    """Lock the folder for this process, creating it if necessary; removed at the end if it is still empty.

    `option` is the option that names another folder. Raises Busy when another process has the lock, WriteError when the folder
    cannot be created.
    """
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Busy(f"another run is writing to {out}: wait for it, or choose another {option}") from None
    try:
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):
            out.rmdir()


def results(out: Path) -> list[str]:
    """Names of the results of a run or an export; folders with a slash."""
    return [
        f"{path.name}{'/' * path.is_dir()}" for path in _outputs(out) if path.name[0] != "." and path.name != STATE_FILE
    ]


def _outputs(out: Path) -> list[Path]:
    return [path for pattern in OUTPUTS for path in sorted(out.glob(pattern))]


def _with_what_it_names(frames: str) -> Iterator[Path]:
    """The path, its matches if it is a pattern, and the listed images if it is a list file."""
    path = Path(os.path.expanduser(frames))
    yield path
    yield from map(Path, glob.iglob(str(path), recursive=True))
    if path.suffix.lower() in LIST_SUFFIXES and path.is_file():
        yield from (file.path for file in listed_images(path))


def _is_a_runs(out: Path) -> bool:
    """Whether a run wrote to the folder: it is marked, or has a resumable run or its record."""
    return (out / MARKER).is_file() or (out / STATE_FILE).is_file() or "conventions" in _record(out)


def _record(out: Path) -> dict[str, Any]:
    """The folder's `run.json`; empty if there is none that can be read."""
    try:
        return read_run_json(out)
    except (OSError, ValueError):
        return {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
