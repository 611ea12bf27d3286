"""Where the files of a checkpoint are, even while they are being replaced, and after a kill during that.

A checkpoint is `config.json` and one of two contents, `model.safetensors` or Orbax's `params`. Other files may be next to them
and never move. To replace a checkpoint, the new one is written to `.part` in its folder, and becomes the checkpoint in one step,
by renaming it to `.incoming`, which takes precedence over the folder itself. Its files then move to their places, the content
first: if `.incoming` has a description but no content, the content has already moved. So one complete checkpoint can be found at
every moment, and the next writer finishes what a killed process began.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ivggt_jax.disk.beside import claimed, remove, written_beside

CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
ORBAX_FOLDER = "params"
"""Used instead of the tensor file if Orbax stores the parameters, for other programs."""
CONTENTS = (TENSOR_FILE, ORBAX_FOLDER)
_PART = ".part"
_INCOMING = ".incoming"


def find(directory: Path, *names: str) -> Path | None:
    """The first of these files that a checkpoint has; None if it has none of them."""
    incoming = directory / _INCOMING
    places = (incoming, directory) if (incoming / CONFIG_FILE).exists() else (directory,)
    return next((place / name for place in places for name in names if (place / name).exists()), None)


def is_bare(directory: Path) -> bool:
    """Whether a folder contains at most an unfinished first checkpoint."""
    return set(os.listdir(directory)) <= {_PART}


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """An empty folder to write a checkpoint to. When the block ends it becomes the checkpoint in `directory`.

    Until then, and if the block fails, the old content stays. Raises OSError.
    """
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(directory, folder=True) as part:
            yield part
        return
    # Inside the folder, so that it is on the same disk even if the folder is a mount point.
    with claimed(directory / _PART, folder=True) as part:
        yield part
        _flush(part)
        _settle(directory)
        os.rename(part, directory / _INCOMING)
        _settle(directory)


def _settle(directory: Path) -> None:
    """Move the incoming files to their places."""
    incoming = directory / _INCOMING
    if (incoming / CONFIG_FILE).exists():
        for name in CONTENTS:
            if (incoming / name).exists():
                for old in CONTENTS:
                    remove(directory / old)
                os.rename(incoming / name, directory / name)
        os.replace(incoming / CONFIG_FILE, directory / CONFIG_FILE)
    remove(incoming)


def _flush(folder: Path) -> None:
    """Flush a folder's files to disk, because the old checkpoint is removed next and power may fail after that."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
