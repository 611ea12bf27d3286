"""The checkpoint format: one directory with `config.json` and `model.safetensors`, memory-mapped when read."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ivggt_jax.config import ModelConfig
from ivggt_jax.disk.beside import written_beside
from ivggt_jax.model.heads import HEADS
from ivggt_jax.model.parameters import Model, abstract_model, flatten
from ivggt_jax.weights import hub, place
from ivggt_jax.weights.configuration import parse_config
from ivggt_jax.weights.hub import Source
from ivggt_jax.weights.place import CONFIG_FILE, TENSOR_FILE
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
ARCHITECTURE = "vggt"
"""The network family of a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """A checkpoint's description of itself."""

    config: ModelConfig
    dtype: str
    """Type of the trunk as stored; heads are float32."""
    parameters: int
    source: Source | None


def save(model: Model, directory: str | Path, *, source: Source | None = None, overwrite: bool = False) -> None:
    """Write a model as a directory, which `load` maps into memory. It appears complete or not at all.

    The model may have any subset of the heads. An overwritten checkpoint stays until the new one is complete, even if the process
    is killed; other files in the directory are not touched.

    Raises CheckpointError when the directory exists and `overwrite` is not set, when it is not a checkpoint, and when the model's
    parameters do not match its configuration.
    """
    directory, params = Path(directory), flatten(model.params)
    layout = {path: (x.shape, np.dtype(x.dtype)) for path, x in params.items()}
    check_shapes(directory, model.config, {path: shape for path, (shape, _) in layout.items()})
    with replacing(directory, overwrite) as part:
        write_directory(part, model.config, layout, lambda path: np.asarray(params[path]), source)


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint directory of this project; a foreign folder with its own config.json is not.

    Raises CheckpointError when config.json exists and is damaged.
    """
    config = place.find(path, CONFIG_FILE) if path.is_dir() else None
    return config is not None and "format" in read_json(config)


def describe(directory: Path) -> Description:
    """A checkpoint directory's description of itself.

    Raises CheckpointError when it is not a checkpoint, or of another version.
    """
    where, content = _read_config(directory)
    config = parse_config(content.get("model"), where)
    dtype, parameters, source = content.get("dtype"), content.get("parameters"), content.get("source")
    if not isinstance(dtype, str) or not isinstance(parameters, int) or not _is_source(source):
        raise CheckpointError(f"{where} is incomplete or damaged; convert the weights again")
    return Description(config=config, dtype=dtype, parameters=parameters, source=Source(**source) if source else None)


def open_directory(directory: Path) -> tuple[Description, dict[str, np.ndarray]]:
    """Description and mapped parameters, by "/"-joined path, of a checkpoint directory.

    Raises CheckpointError when the tensors do not match the configuration.
    """
    description = describe(directory)
    named = "predicts" in _read_config(directory)[1]["model"]
    content = place.find(directory, *place.CONTENTS)
    if content is None:
        raise CheckpointError(f"{directory} has no {TENSOR_FILE}: copy or download it again")
    if content.name != TENSOR_FILE:
        raise CheckpointError(
            f"{directory} is stored with Orbax, for other programs: `ivggt convert {directory} OUTPUT` makes one to load"
        )
    tensors = open_safetensors(content)
    if not named:  # an older checkpoint, in which only the tensors show which heads there are
        config = dataclasses.replace(description.config, predicts=present_heads(tensors))
        description = dataclasses.replace(description, config=config)
    check_shapes(directory, description.config, {path: x.shape for path, x in tensors.items()})
    if other := [f"{path} is {x.dtype}" for path, x in tensors.items() if not jnp.issubdtype(x.dtype, jnp.floating)]:
        raise CheckpointError(
            f"{directory}: {len(other)} tensors are not of floating-point numbers:{list_problems(other)}"
        )
    return description, tensors


def present_heads(paths: Iterable[str]) -> tuple[str, ...]:
    """The heads with any of these parameters, given by "/"-joined path. A checkpoint has all parameters of a head or none."""
    parts = {path.partition("/")[0] for path in paths}
    return tuple(name for name, head in HEADS.items() if not parts.isdisjoint(head.parts))


def check_shapes(directory: Path, config: ModelConfig, found: Mapping[str, tuple[int, ...]]) -> None:
    """Compare a checkpoint's parameters, by "/"-joined path, with those of its configuration.

    Raises CheckpointError listing all differences.
    """
    model = abstract_model(config, np.float32)
    expected = {path: x.shape for path, x in flatten(model.params).items()}
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

    `layout` has the shape and dtype of every parameter by "/"-joined path; `read` returns each once.
    """
    write_safetensors(directory / TENSOR_FILE, layout, read, {"format": FORMAT})
    write_config(directory, config, layout, source)


def write_config(directory: Path, config: ModelConfig, layout: Layout, source: Source | None) -> None:
    """Write `config.json`, the checkpoint's description of itself."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": ARCHITECTURE,
        "dtype": str(next(dtype for path, (_, dtype) in layout.items() if path.startswith("aggregator/"))),
        "parameters": sum(math.prod(shape) for shape, _ in layout.values()),
        "source": dataclasses.asdict(source) if source else None,
        "model": dataclasses.asdict(config),
    }
    (directory / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n")


def check_place(path: Path, overwrite: bool) -> None:
    """Raises CheckpointError when `path` exists, unless `overwrite` is set and it is a file or a checkpoint directory."""
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} exists; choose another place or overwrite it (--overwrite)")
    if path.is_dir() and not place.is_bare(path):
        _read_config(path)


def _is_source(value: object) -> bool:
    """Whether a value is None or an object with the string fields of a Source."""
    if not isinstance(value, dict):
        return value is None
    known = {field.name for field in dataclasses.fields(Source)}
    texts = all(text is None or isinstance(text, str) for text in value.values())
    return texts and isinstance(value.get("name"), str) and value.keys() <= known


@contextmanager
def replacing(path: Path, overwrite: bool = False, *, folder: bool = True) -> Iterator[Path]:
    """An empty folder, or file, to write a checkpoint to; when the block ends it replaces `path`.

    The previous content of `path` stays until then, and if the block fails; other files in the folder always stay. Raises
    CheckpointError like `check_place`, and when the disk is full or the place cannot be written.
    """
    check_place(path, overwrite)
    if folder and path.is_file():
        raise CheckpointError(f"{path} is a file, and a checkpoint is a folder: choose another place")
    if path.is_symlink():
        path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with place.replacing(path) if folder else written_beside(path) as part:
            yield part
    except OSError as error:
        raise CheckpointError(hub.explain_disk(path, error)) from error


def _read_config(directory: Path) -> tuple[str, dict[str, Any]]:
    """Path and content of config.json, after checking its format and version."""
    path = place.find(directory, CONFIG_FILE)
    if path is None:
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
    if (family := content.get("architecture", ARCHITECTURE)) != ARCHITECTURE:
        raise CheckpointError(f"{path} is of a network {family!r}; this release knows {ARCHITECTURE!r}")
    return f"{path}", content
