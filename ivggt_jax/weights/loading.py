"""From a name to a model: a checkpoint's folder, weights of PyTorch's, a name on the Hub, or the demo model."""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.typing import DTypeLike

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.parameters import Model, compute_dtypes, unflatten
from ivggt_jax.weights import hub
from ivggt_jax.weights.checkpoint import describe, is_checkpoint, open_directory
from ivggt_jax.weights.hub import Source
from ivggt_jax.weights.tensor_file import CheckpointError

_DEMO = Path(__file__).parents[1] / "demo"


def load(path_or_name: str | Path, dtype: DTypeLike | None = None) -> Model:
    """Load a model; prints its licence to standard error where the checkpoint has one.

    Args:
        path_or_name: a directory that `save` or `python -m convert` wrote; weights of published shapes under PyTorch's names,
            as a `.pth`, `.pt`, `.bin` or `.safetensors` file or a folder with them; "owner/name" or "owner/name@revision" for a
            repository on the Hugging Face Hub with either, which is downloaded and converted once; or "demo".
        dtype: of the trunk; None is bfloat16 on a GPU and float32 on a CPU. Heads are float32.

    The model has the heads that the checkpoint has. On a CPU the parameters that need no cast lie in the mapped file: loading
    takes no memory and no second copy, and pages are read when they are first used.

    Raises CheckpointError for whatever cannot be used, in one line with the way out.
    """
    path = locate(path_or_name)
    if is_checkpoint(path):
        return _load_directory(path, dtype)
    return _load_torch(path, dtype)


def download(name: str) -> Path:
    """The directory of a model on the Hub, downloaded and converted into the cache when it is not there yet.

    Two processes that ask at once do it once. Raises CheckpointError, see `ivggt_jax.weights.hub.fetch`.
    """

    def convert(file: Path, source: Source, directory: Path) -> None:
        from ivggt_jax.convert.command import convert_file

        convert_file(file.parent if is_checkpoint(file.parent) else file, directory, source=source)

    return hub.cached(name, convert)


def identify(path_or_name: str | Path) -> Source:
    """What is known of a checkpoint's origin, for records; of weights of PyTorch's, or without a source, the name alone.

    Raises CheckpointError when there is no such checkpoint.
    """
    path = locate(path_or_name)
    source = describe(path).source if is_checkpoint(path) else None
    return source or Source(name=path.name)


def find_config(path_or_name: str | Path) -> ModelConfig:
    """The configuration of what `load` would load, without loading it; what is on the Hub may be downloaded."""
    path = locate(path_or_name)
    return describe(path).config if is_checkpoint(path) else ModelConfig.vggt_1b()


def locate(path_or_name: str | Path) -> Path:
    """The file or directory that a path, a name on the Hub or "demo" stands for; what is on the Hub may be downloaded.

    Raises CheckpointError when it is none of them.
    """
    path, name = Path(path_or_name), str(path_or_name)
    if name == "demo" and not path.exists():
        return _DEMO
    if path.exists():
        return path
    if hub.is_name(name):
        return download(name)
    published = ", ".join(hub.PUBLISHED)
    raise CheckpointError(f"no checkpoint {name!r}: no such file or directory, and not one of {published}")


def _load_directory(directory: Path, dtype: DTypeLike | None) -> Model:
    description, tensors = open_directory(directory)
    if description.source and description.source.licence:
        print(f"{description.source.name}: {description.source.licence}", file=sys.stderr)
    dtypes = compute_dtypes(tensors, dtype)
    # device_put takes an aligned host array over as it is on a CPU; jnp.asarray would copy it.
    params = {path: jax.device_put(np.asarray(x, dtypes[path])) for path, x in tensors.items()}
    return Model(description.config, unflatten(params))


def _load_torch(path: Path, dtype: DTypeLike | None) -> Model:
    # The converter is needed for foreign files alone; the library does not depend on it otherwise.
    from ivggt_jax.convert.assembly import Assembled
    from ivggt_jax.convert.recognise import open_vggt

    config = ModelConfig.vggt_1b()
    found = open_vggt(path, config)
    params = Assembled(found.tensors, config, dtype, found.heads)
    return Model(config, unflatten({name: jax.device_put(x) for name, x in params.items()}))
