"""Orbax checkpoints of parameters, for other programs in JAX, one parameter at a time."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ivggt_jax.model.parameters import flatten, unflatten
from ivggt_jax.weights import place
from ivggt_jax.weights.place import ORBAX_FOLDER, TENSOR_FILE
from ivggt_jax.weights.tensor_file import CheckpointError, open_safetensors


def is_orbax(directory: Path) -> bool:
    """Whether a checkpoint directory stores its parameters with Orbax."""
    content = place.find(directory, *place.CONTENTS)
    return content is not None and content.name == ORBAX_FOLDER


def replace_by_orbax(directory: Path) -> None:
    """Replace a checkpoint directory's safetensors by an Orbax checkpoint of the nested dict of parameters.

    Raises CheckpointError when Orbax is not installed, OSError when there is no room for both.
    """
    # Orbax would fail in many threads at once, each with a traceback.
    if shutil.disk_usage(directory).free < (directory / TENSOR_FILE).stat().st_size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    tensors = open_safetensors(directory / TENSOR_FILE)
    cpu = jax.devices("cpu")[0]
    # Orbax copies host arrays before writing them. Arrays on the CPU device that lie in the mapped file are written from there,
    # unless they are compressed.
    params = unflatten({path: jax.device_put(x, cpu) for path, x in tensors.items()})
    orbax = _import_orbax()
    handler = orbax.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False)
    with orbax.Checkpointer(handler) as checkpointer, _quiet():
        checkpointer.save((directory / ORBAX_FOLDER).absolute(), orbax.args.PyTreeSave(params))
    (directory / TENSOR_FILE).unlink()


class OrbaxParameters(Mapping[str, np.ndarray]):
    """Parameters of an Orbax directory by "/"-joined path, each read on access."""

    def __init__(self, directory: Path):
        """Read the index. Raises CheckpointError when Orbax is not installed or cannot read it."""
        self._orbax = _import_orbax()
        self._directory = (place.find(directory, ORBAX_FOLDER) or directory / ORBAX_FOLDER).absolute()
        self._checkpointer = self._orbax.Checkpointer(self._orbax.PyTreeCheckpointHandler())
        try:
            metadata = self._checkpointer.metadata(self._directory).item_metadata
            self.shapes: dict[str, tuple[int, ...]] = {path: x.shape for path, x in flatten(metadata.tree).items()}
        except (ValueError, OSError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{self._directory} is not a whole Orbax checkpoint ({error})") from error

    def __getitem__(self, path: str) -> np.ndarray:
        item: dict[str, Any] = unflatten({path: 0})
        to_host = unflatten({path: self._orbax.RestoreArgs(restore_type=np.ndarray)})
        arguments = self._orbax.args.PyTreeRestore(item=item, restore_args=to_host, partial_restore=True)
        array: np.ndarray = flatten(self._checkpointer.restore(self._directory, arguments))[path]
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _import_orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError:
        raise CheckpointError("Orbax is not installed; install it with: pip install 'ivggt_jax[train]'") from None
    return orbax.checkpoint


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Orbax's log, which is about its own files, in the command's output."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
