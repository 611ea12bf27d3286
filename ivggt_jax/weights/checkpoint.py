"""The format of a checkpoint: one directory with `config.json` and `model.safetensors`, mapped into memory when read."""

import dataclasses
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ivggt_jax.config import ModelConfig
from ivggt_jax.model.parameters import Model, abstract_params, flatten
from ivggt_jax.model.vggt import HEADS
from ivggt_jax.weights import hub
from ivggt_jax.weights.hub import Source
from ivggt_jax.weights.tensor_file import (
    CheckpointError,
    Layout,
    list_problems,
    open_safetensors,
    read_json,
    write_safetensors,
)

FORMAT = "ivggt_jax"
VERSION = 1
CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
ORBAX_FOLDER = "params"
"""In place of the tensor file where Orbax keeps the parameters, for training."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a checkpoint says about itself."""

    config: ModelConfig
    dtype: str
    """Of the trunk, as stored; heads are float32."""
    parameters: int
    source: Source | None


def save(model: Model, directory: str | Path, *, source: Source | None = None, overwrite: bool = False) -> None:
    """Write a model as a directory that `load` maps into memory. It appears whole or not at all.

    Raises CheckpointError when the directory exists and `overwrite` is not set, or is no checkpoint, and for a model that
    was left without some of its heads. Files beside those of a checkpoint that is overwritten stay.
    """
    if absent := sorted(set(HEADS) - set(model.heads)):
        raise CheckpointError(f"a model without its heads {', '.join(absent)} is no checkpoint: save the whole one")
    params = flatten(model.params)
    layout = {path: (x.shape, np.dtype(x.dtype)) for path, x in params.items()}
    with written_beside(Path(directory), overwrite) as beside:
        beside.mkdir()
        write_directory(beside, model.config, layout, lambda path: np.asarray(params[path]), source)


def describe(directory: Path) -> Description:
    """What a checkpoint directory says about itself.

    Raises CheckpointError when it is none, or not of this version.
    """
    content = _read_config(directory)
    where = f"{directory / CONFIG_FILE}"
    source = content.get("source")
    try:
        return Description(
            config=parse_config(content.get("model"), where),
            dtype=content["dtype"],
            parameters=content["parameters"],
            source=Source(**source) if source else None,
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{where} is incomplete ({error}); convert the weights again") from None


def open_directory(directory: Path) -> tuple[Description, dict[str, np.ndarray]]:
    """Description and mapped parameters, by "/"-joined path, of a checkpoint directory.

    Raises CheckpointError when the tensors are not those of the configuration.
    """
    description = describe(directory)
    if not (directory / TENSOR_FILE).exists():
        raise CheckpointError(f"{directory} has no {TENSOR_FILE}; if it holds an Orbax checkpoint, convert it")
    tensors = open_safetensors(directory / TENSOR_FILE)
    check_shapes(directory, description.config, {path: x.shape for path, x in tensors.items()})
    return description, tensors


def check_shapes(directory: Path, config: ModelConfig, found: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError when the parameters of a directory, by "/"-joined path, are not those of its configuration."""
    expected = {path: x.shape for path, x in flatten(abstract_params(config)).items()}
    problems = [f"missing {path}" for path in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected {path}" for path in sorted(found.keys() - expected.keys())]
    problems += [
        f"{path} has shape {list(found[path])}, expected {list(expected[path])}"
        for path in sorted(expected.keys() & found.keys())
        if expected[path] != found[path]
    ]
    if problems:
        raise CheckpointError(
            f"{directory}: {len(problems)} tensors do not fit {CONFIG_FILE}:{list_problems(problems)}"
        )


def write_directory(
    directory: Path, config: ModelConfig, layout: Layout, read: Callable[[str], np.ndarray], source: Source | None
) -> None:
    """Write the files of a checkpoint into an existing directory, holding one parameter at a time.

    `layout` has the shape and dtype of every parameter by "/"-joined path, `read` gives each once.
    """
    write_safetensors(directory / TENSOR_FILE, layout, read, {"format": FORMAT})
    write_config(directory, config, layout, source)


def write_config(directory: Path, config: ModelConfig, layout: Layout, source: Source | None) -> None:
    """Write `config.json`, what a checkpoint says about itself."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": str(next(dtype for path, (_, dtype) in layout.items() if path.startswith("aggregator/"))),
        "parameters": sum(math.prod(shape) for shape, _ in layout.values()),
        "source": dataclasses.asdict(source) if source else None,
        "model": dataclasses.asdict(config),
    }
    (directory / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n")


def parse_config(fields: object, what: str) -> ModelConfig:
    """A ModelConfig from the fields of a JSON object; those left out have their full-size value.

    Raises CheckpointError naming the unknown or unsound field of `what`.
    """
    if not isinstance(fields, dict):
        raise CheckpointError(f"{what} has no object with the model's fields")
    known = {field.name: field for field in dataclasses.fields(ModelConfig)}
    values: dict[str, int | float | tuple[int, ...]] = {}
    for name, value in fields.items():
        if name not in known:
            raise CheckpointError(f"{what}: unknown field {name!r}; known are {', '.join(known)}")
        items = value if isinstance(value, list) else [value]
        if isinstance(value, list) != isinstance(known[name].default, tuple):
            raise CheckpointError(f"{what}: {name} is {value!r}, expected something like {known[name].default!r}")
        for item in items:
            whole = isinstance(item, int) or (known[name].type is float and isinstance(item, float))
            if not whole or isinstance(item, bool) or not 0 <= item < 2**31:
                raise CheckpointError(f"{what}: {name} is {value!r}, expected something like {known[name].default!r}")
        values[name] = tuple(items) if isinstance(value, list) else value
    try:
        return ModelConfig(**values)  # type: ignore[arg-type]
    except ValueError as error:
        raise CheckpointError(f"{what}: {error}") from None


def check_place(path: Path, overwrite: bool) -> None:
    """Raises CheckpointError when `path` exists, unless `overwrite` is set and it is a file or a checkpoint directory."""
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} exists; choose another place or overwrite it (--overwrite)")
    if path.is_dir() and any(path.iterdir()):
        _read_config(path)


@contextmanager
def written_beside(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A path beside `path` to write a file or directory to; it is renamed into place at the end, removed on failure.

    What lies in the directory that it replaces and is not the checkpoint's is kept.

    Raises CheckpointError, see `check_place`; also when the disk is full or the place cannot be written.
    """
    check_place(path, overwrite)
    if path.is_symlink():
        path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from None
    try:
        beside = folder / path.name
        yield beside
        replaced = folder / f"{path.name}.replaced"
        if path.is_dir():
            os.replace(path, replaced)
        os.replace(beside, path)
        if replaced.exists():
            for name in set(os.listdir(replaced)) - {CONFIG_FILE, TENSOR_FILE, ORBAX_FOLDER}:
                os.replace(replaced / name, path / name)
    except OSError as error:
        raise CheckpointError(hub.explain_disk(path, error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read_config(directory: Path) -> dict:
    """The content of config.json, once it is known to be of this format and version."""
    path = directory / CONFIG_FILE
    if not path.exists():
        raise CheckpointError(
            f"{directory} is not a checkpoint: it has no {CONFIG_FILE}; give the directory that `python -m convert` "
            "wrote, or the .pth or .safetensors file itself"
        )
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not from this project; to use PyTorch weights give the .pth or .safetensors file itself"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {content.get('version')!r}, this release reads {VERSION}; update it, or convert again"
        )
    return content
