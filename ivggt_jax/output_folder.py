"""The folder that a run writes to: what an earlier run left there, and who may write."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ivggt_jax.resume import STATE_FILE, Unfinished, read_state
from ivggt_jax.tensor_file import CheckpointError
from ivggt_jax.writers.files import naming
from ivggt_jax.writers.run_json import read_run_json

OUTPUTS = (
    *("trajectory.txt", "kitti.txt", "intrinsics.txt", "frames", "points.ply", "depth", "video.mp4", "recording*.rrd"),
    *("sparse", "images", "transforms.json", "nerfstudio_depth", "nerfstudio.ply", "scene.glb", "scene.html"),
    *("aligned", "run.json", STATE_FILE, ".*.part"),
)
"""Everything that a run or an export writes into the top of its folder: nothing else there is ever removed."""
LOCK = ".lock"


@dataclass(frozen=True)
class EarlierRun:
    """What lies in a folder."""

    description: str
    """For people: "a run that was stopped after 12 frames"."""
    finished: bool = False
    unfinished: Unfinished | None = None
    """What is needed to go on, where the run can be resumed."""


def earlier_run(out: Path) -> EarlierRun | None:
    """What an earlier run left in the folder; None when there is none. Raises CheckpointError when it is damaged."""
    unfinished = read_state(out)
    if unfinished is not None:
        frames = unfinished.frames
        saved = f"that was stopped, with {frames} frames saved" if frames else "that was stopped before its first save"
        return EarlierRun(f"a run {saved}", unfinished=unfinished)
    if (out / "run.json").is_file():
        with contextlib.suppress(ValueError, KeyError):
            return EarlierRun(f"a finished run of {read_run_json(out)['frames']} frames", finished=True)
    if any(_outputs(out)):
        return EarlierRun("what is left of a run that cannot be resumed")
    return None


def clear(out: Path) -> None:
    """Remove what an earlier run left, and nothing else. Raises WriteError when it cannot be removed."""
    for path in _outputs(out):
        with naming(path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def describe(out: Path) -> str | None:
    """What lies in the folder, for people, whatever state it is in; None for nothing."""
    try:
        earlier = earlier_run(out)
    except CheckpointError:
        return "a damaged run"
    return earlier.description if earlier else None


def check_inputs_outside(out: Path, inputs: Iterable[str | Path | None]) -> None:
    """Raises ValueError when an input lies where results go, and might be replaced or removed."""
    folder = out.resolve()
    for path in inputs:
        place = Path(path or "").expanduser().resolve()
        if folder in place.parents and place.relative_to(folder).parts[0] in OUTPUTS:
            raise ValueError(f"{path} lies where results are written, in {out}: choose another --out")


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """The folder, made if needed, for this process alone; removed at the end if it is still empty.

    Raises ValueError when another process has it, WriteError when it cannot be made.
    """
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another run is writing to {out}: wait for it, or choose another --out") from None
    try:
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):
            out.rmdir()


def _outputs(out: Path) -> list[Path]:
    return [path for pattern in OUTPUTS for path in sorted(out.glob(pattern))]
