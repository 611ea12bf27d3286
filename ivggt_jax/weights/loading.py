"""From a name to a model: a checkpoint's folder, a file of PyTorch's, a published name, or the demo model."""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.typing import DTypeLike

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.parameters import Model, compute_dtypes, unflatten
from ivggt_jax.weights import hub
from ivggt_jax.weights.checkpoint import describe, open_directory
from ivggt_jax.weights.hub import Source
from ivggt_jax.weights.tensor_file import CheckpointError, list_problems

_DEMO = Path(__file__).parents[1] / "demo"


def load(path_or_name: str | Path, dtype: DTypeLike | None = None) -> Model:
    """Load a model; prints its licence to standard error where the checkpoint has one.

    Args:
        path_or_name: a directory that `save` or `python -m convert` wrote; a `.pth`, `.pt` or `.safetensors` file of
            published shapes under PyTorch's names; a published name (`ivggt_jax.weights.hub.PUBLISHED`), which is downloaded
            and converted once; or "demo".
        dtype: of the trunk; None is bfloat16 on a GPU and float32 on a CPU. Heads are float32.

    On a CPU the parameters that need no cast lie in the mapped file: loading takes no memory and no second copy, and
    pages are read when they are first used.

    Raises CheckpointError for whatever cannot be used, in one line with the way out.
    """
    path = locate(path_or_name)
    if path.is_dir():
        return _load_directory(path, dtype)
    return _load_torch(path, dtype)


def download(name: str) -> Path:
    """The directory of a published model, downloaded and converted into the cache when it is not there yet.

    Two processes that ask at once do it once. Raises CheckpointError, see `ivggt_jax.weights.hub.fetch`.
    """

    def convert(file: Path, source: Source, directory: Path) -> None:
        from ivggt_jax.convert.command import convert_file

        convert_file(file, directory, source=source)

    return hub.cached(name, convert)


def identify(path_or_name: str | Path) -> Source:
    """What is known of a checkpoint's origin, for records; a file, or a directory without a source, by its name alone.

    Raises CheckpointError when there is no such checkpoint.
    """
    path = locate(path_or_name)
    source = describe(path).source if path.is_dir() else None
    return source or Source(name=path.name)


def find_config(path_or_name: str | Path) -> ModelConfig:
    """The configuration of what `load` would load, without loading it; a published name may be downloaded."""
    path = locate(path_or_name)
    return describe(path).config if path.is_dir() else ModelConfig.vggt_1b()


def locate(path_or_name: str | Path) -> Path:
    """The file or directory that a path, a published name or "demo" stands for; a published name may be downloaded.

    Raises CheckpointError when it is none of them.
    """
    path = Path(path_or_name)
    if path_or_name == "demo" and not path.exists():
        return _DEMO
    if path.exists():
        return path
    if str(path_or_name) in hub.PUBLISHED:
        return download(str(path_or_name))
    names = ", ".join(hub.PUBLISHED)
    raise CheckpointError(f"no checkpoint {str(path_or_name)!r}: no such file or directory, and not one of {names}")


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
    from ivggt_jax.convert.assembly import Assembled, find_mismatches
    from ivggt_jax.convert.torch_file import open_tensors

    config = ModelConfig.vggt_1b()
    tensors = open_tensors(path)
    if problems := find_mismatches(tensors, config):
        raise CheckpointError(
            f"{path}: {len(problems)} tensors do not fit the published model; convert other shapes with "
            f"`python -m convert --config`:{list_problems(problems)}"
        )
    params = Assembled(tensors, config, dtype)
    return Model(config, unflatten({name: jax.device_put(x) for name, x in params.items()}))
