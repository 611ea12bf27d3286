"""Where the files of a checkpoint lie, also while they are replaced and after a kill in the midst of that.

A checkpoint is `config.json` and one of two contents, `model.safetensors` or Orbax's `params`. Other files may lie beside
them and never move. To replace a checkpoint, the new one is written into `.part` in its folder, and becomes the checkpoint in
one step, when that is renamed to `.incoming`: what is there goes before what lies in the folder itself. Its files then move
to their places, the content first: while the description is in `.incoming`, a content that is no longer there has moved
already. So at every moment one whole checkpoint is found, and whoever writes next finishes what a killed process began.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ivggt_jax.disk.beside import claimed, remove, written_beside

CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
ORBAX_FOLDER = "params"
"""In place of the tensor file where Orbax keeps the parameters, for training."""
CONTENTS = (TENSOR_FILE, ORBAX_FOLDER)
_PART = ".part"
_INCOMING = ".incoming"


def find(directory: Path, *names: str) -> Path | None:
    """The first of these files that a checkpoint has; None when it has none of them."""
    incoming = directory / _INCOMING
    places = (incoming, directory) if (incoming / CONFIG_FILE).exists() else (directory,)
    return next((place / name for place in places for name in names if (place / name).exists()), None)


def is_bare(directory: Path) -> bool:
    """Whether nothing but an unfinished first checkpoint lies in a folder."""
    return set(os.listdir(directory)) <= {_PART}


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """An empty folder to write a checkpoint to. When the block ends it is the checkpoint in `directory`.

    Until then, and when the block fails, what is there stays. Raises OSError.
    """
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(directory, folder=True) as part:
            yield part
        return
    # Inside, so that it is on the same disk where the folder is a disk of its own.
    with claimed(directory / _PART, folder=True) as part:
        yield part
        _flush(part)
        _settle(directory)
        os.rename(part, directory / _INCOMING)
        _settle(directory)


def _settle(directory: Path) -> None:
    """Bring what is incoming to its place."""
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
    """Wait until a folder's files are on the disk: the old checkpoint is removed next, and power may fail after that."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
