"""Loads a model by name: a checkpoint's folder, PyTorch weights, a name on the Hub, or the demo model."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jax.typing import DTypeLike

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.parameters import Model, compute_dtypes, unflatten
from ivggt_jax.options.words import meant
from ivggt_jax.weights import hub
from ivggt_jax.weights.checkpoint import describe, is_checkpoint, open_directory
from ivggt_jax.weights.hub import Source
from ivggt_jax.weights.tensor_file import CheckpointError

_DEMO = Path(__file__).parents[1] / "demo"


def load(path_or_name: str | Path, dtype: DTypeLike | None = None) -> Model:
    """Load a model; prints its licence to standard error if the checkpoint states one.

    Args:
        path_or_name: a directory written by `save` or `python -m convert`; weights of a published architecture under
            PyTorch's names, as a `.pth`, `.pt`, `.bin` or `.safetensors` file or a folder of them; "owner/name" or
            "owner/name@revision" for a Hugging Face Hub repository of either kind, downloaded and converted once; or "demo".
        dtype: of the trunk; None is bfloat16 on a GPU and float32 on a CPU. Heads are float32.

    The model has the heads that the checkpoint has. On a CPU, parameters that need no cast stay in the memory-mapped file:
    loading makes no copy, and pages are read on first use.

    Raises CheckpointError for anything that cannot be used, with a one-line message and a remedy.
    """
    path = locate(path_or_name)
    if is_checkpoint(path):
        return _load_directory(path, dtype)
    return _load_torch(path, dtype)


def download(name: str) -> Path:
    """The directory of a model on the Hub, downloaded and converted into the cache if it is not there yet.

    Concurrent processes do this only once. Raises CheckpointError, see `ivggt_jax.weights.hub.fetch`.
    """

    def convert(file: Path, source: Source, directory: Path) -> None:
        from ivggt_jax.convert.command import convert_file

        convert_file(file.parent if is_checkpoint(file.parent) else file, directory, source=source)

    return hub.cached(name, convert)


def identify(path_or_name: str | Path) -> Source:
    """A checkpoint's origin, for records; for PyTorch weights, or without a recorded source, only the name.

    Raises CheckpointError when there is no such checkpoint.
    """
    path = locate(path_or_name)
    source = describe(path).source if is_checkpoint(path) else None
    return source or Source(name=path.name)


def find_config(path_or_name: str | Path) -> ModelConfig:
    """The configuration of the model that `load` would load, without loading it; a model on the Hub may be downloaded."""
    path = locate(path_or_name)
    return describe(path).config if is_checkpoint(path) else ModelConfig.vggt_1b()


def locate(path_or_name: str | Path) -> Path:
    """The file or directory for a path, a name on the Hub or "demo"; a model on the Hub may be downloaded.

    Raises CheckpointError when it is none of them.
    """
    path, name = Path(path_or_name), str(path_or_name)
    if name == "demo" and not path.exists():
        return _DEMO
    if path.exists():
        if not is_checkpoint(path) and is_checkpoint(best := path / "best"):
            raise CheckpointError(f"{path} is a training run: its best student is {best}")
        return path
    if hub.is_name(name):
        return download(name)
    known = (*hub.PUBLISHED, "demo")
    raise CheckpointError(
        f"no checkpoint {name!r}: no such file or directory, and not one of {', '.join(known)}{meant(name, known)}"
    )


def _load_directory(directory: Path, dtype: DTypeLike | None) -> Model:
    description, tensors = open_directory(directory)
    if description.source and description.source.licence:
        print(f"{description.source.name}: {description.source.licence}", file=sys.stderr)
    dtypes = compute_dtypes(tensors, dtype)
    # On a CPU device_put uses an aligned host array in place; jnp.asarray would copy it.
    params = {path: jax.device_put(np.asarray(x, dtypes[path])) for path, x in tensors.items()}
    return Model(description.config, unflatten(params))


def _load_torch(path: Path, dtype: DTypeLike | None) -> Model:
    # The converter is only needed for foreign files; the library does not depend on it otherwise.
    from ivggt_jax.convert.assembly import Assembled
    from ivggt_jax.convert.recognise import open_vggt

    config = ModelConfig.vggt_1b()
    found = open_vggt(path, config)
    params = Assembled(found.tensors, config, dtype, found.heads)
    config = replace(config, predicts=found.heads)
    return Model(config, unflatten({name: jax.device_put(x) for name, x in params.items()}))
