"""`python -m convert IN OUT`: converts PyTorch checkpoints to this project's format and back, one tensor at a time."""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import ml_dtypes
import numpy as np
import tyro
from tqdm import tqdm

from ivggt_jax.config import PUBLISHED_HEADS, ModelConfig
from ivggt_jax.convert.assembly import Assembled, published, torch_shapes
from ivggt_jax.convert.orbax_file import OrbaxParameters, is_orbax, replace_by_orbax
from ivggt_jax.convert.parameters import to_torch
from ivggt_jax.convert.recognise import open_vggt
from ivggt_jax.convert.torch_writer import write_torch
from ivggt_jax.disk.beside import claimed, part_of
from ivggt_jax.model.parameters import Model, compute_dtypes, unflatten
from ivggt_jax.weights import checkpoint, hub, loading
from ivggt_jax.weights.checkpoint import check_place, is_checkpoint, replacing, write_directory
from ivggt_jax.weights.configuration import read_config
from ivggt_jax.weights.hub import Source
from ivggt_jax.weights.tensor_file import CheckpointError, Layout, write_safetensors
from ivggt_jax.weights.weight_files import digest, find_weights

Precision = Literal["float32", "bfloat16", "float16"]
TORCH_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Convert:
    """Convert a PyTorch checkpoint to this project's format, or back with --to torch."""

    input: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="INPUT")]
    """A PyTorch or safetensors file, its index, a folder of such files, a name on the Hugging Face Hub, or a converted folder."""
    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    """Directory to create; with --to torch the .pth, .pt or .safetensors file."""
    dtype: Precision | None = None
    """Type of the trunk, by default the input's if it has 16 bits, else float32; heads are float32. float16 ends at 65,504."""
    to: Literal["safetensors", "orbax", "torch"] = "safetensors"
    """safetensors: mapped into memory when loaded; orbax: for other programs; torch: PyTorch's names and layouts."""
    config: Path | None = None
    """For unpublished architectures: a checkpoint's config.json, or JSON with ModelConfig fields; missing ones are full-size."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace the output if it exists."""


@dataclass(frozen=True)
class Parameters:
    """The content of an input: tensors by name, each built, mapped or read on access, and how to write them."""

    config: ModelConfig
    layout: Layout
    heads: tuple[str, ...]
    tensors: Mapping[str, np.ndarray]
    source: Source | None


def run(command: Convert) -> int:
    """Convert a PyTorch checkpoint to this project's format, or back with --to torch."""
    # Before a download, which may take long.
    check_place(command.output, command.overwrite)
    if command.to != "torch" and command.output.suffix in TORCH_SUFFIXES:
        raise CheckpointError(f"{command.output}: the output is a directory, or with --to torch a file of that name")
    config = read_config(command.config) if command.config else None
    source = None
    if command.to != "torch" and not Path(command.input).exists() and hub.is_name(command.input):
        path, source = hub.fetch(command.input)
        path = path.parent if is_checkpoint(path.parent) else path
    else:
        path = loading.locate(command.input)
    if config and is_checkpoint(path):
        raise CheckpointError(f"--config: {path} is a checkpoint directory and says itself what it holds")
    if command.to == "torch":
        done = export_file(path, command.output, dtype=command.dtype, overwrite=command.overwrite)
    else:
        done = convert_file(
            path,
            command.output,
            to=command.to,
            dtype=command.dtype,
            config=config,
            source=source,
            overwrite=command.overwrite,
        )
    files = [command.output] if command.output.is_file() else command.output.rglob("*")
    size = sum(file.stat().st_size for file in files if file.is_file())
    trunk = next(dtype for name, (_, dtype) in done.layout.items() if name.startswith("aggregator"))
    print(f"{command.output}: {_count(done.layout):,} parameters, trunk {trunk}, {size / 1e9:.2f} GB")
    if absent := [head for head in PUBLISHED_HEADS if head not in done.heads]:
        print(f"heads: {', '.join(done.heads) or 'none'}; the input has no {', '.join(absent)}")
    if done.source:
        licence = done.source.licence or "not recorded; that of the source applies"
        print(f"source: {done.source.name}, sha256 {done.source.sha256}\nlicence: {licence}")
    return 0


def convert_file(
    path: Path,
    directory: Path,
    *,
    to: Literal["safetensors", "orbax"] = "safetensors",
    dtype: Precision | None = None,
    config: ModelConfig | None = None,
    source: Source | None = None,
    overwrite: bool = False,
) -> Parameters:
    """Create a checkpoint directory from PyTorch's weights, or from another directory. It appears complete or not at all.

    See `Convert` for the arguments; `source` is the weights' origin, if known.

    Raises CheckpointError for an input that cannot be used, or an output that cannot be written.
    """
    with replacing(directory, overwrite) as part:
        if is_checkpoint(path):
            found = _open_directory(path, dtype, source)
        else:
            found = _open_torch(path, dtype, config or ModelConfig.vggt_1b(), source)
        with _progress(found, path) as read:
            write_directory(part, found.config, found.layout, read, found.source)
        if to == "orbax":
            replace_by_orbax(part)
    return found


def export_file(directory: Path, path: Path, *, dtype: Precision | None = None, overwrite: bool = False) -> Parameters:
    """Write a checkpoint directory's tensors in PyTorch's layout: a `.pth` or `.pt` file, or a `.safetensors` file.

    Raises CheckpointError for an input that cannot be used, another suffix, or an output that cannot be written.
    """
    if not is_checkpoint(directory):
        raise CheckpointError(f"{directory} is none of this project's checkpoint directories, which --to torch takes")
    if path.suffix not in TORCH_SUFFIXES or path.is_dir():
        raise CheckpointError(f"{path}: with --to torch the output is a file ending in .pth, .pt or .safetensors")
    with replacing(path, overwrite, folder=False) as part, ExitStack() as until_done:
        if is_orbax(directory):
            # PyTorch's tensors are slices of ours, so ours are mapped instead of being read again for each slice.
            mapped = until_done.enter_context(claimed(part_of(path.with_name(f"{path.name}.parameters")), folder=True))
            convert_file(directory, mapped, dtype=dtype, overwrite=True)
            directory = mapped
        ours = _open_directory(directory, dtype)
        if more := sorted({*ours.heads} - {*PUBLISHED_HEADS} | ({"depth_input"} if ours.config.depth_input else set())):
            raise CheckpointError(f"{directory} has {', '.join(more)}, which PyTorch's network has not")
        trunk, others = ours.layout["aggregator/camera_token"][1], np.dtype(np.float32)
        layout = {
            name: (shape, trunk if name.startswith("aggregator.") else others)
            for name, shape in torch_shapes(ours.config, ours.heads).items()
        }
        tensors = to_torch(Model(ours.config, unflatten(ours.tensors)))
        found = Parameters(ours.config, layout, ours.heads, tensors, ours.source)
        with _progress(found, directory) as read:
            if path.suffix == ".safetensors":
                write_safetensors(part, layout, read)
            else:
                write_torch(part, layout, read)
    return found


def _open_torch(path: Path, dtype: Precision | None, config: ModelConfig, source: Source | None) -> Parameters:
    file, config = find_weights(path), published(config)
    found = open_vggt(file, config)
    source = dataclasses.replace(source or Source(name=path.name), sha256=digest(file))
    trunk = dtype or _trunk(found.tensors, "aggregator.camera_token")
    assembled = Assembled(found.tensors, config, trunk, found.heads)
    config = dataclasses.replace(config, predicts=found.heads)
    return Parameters(config, assembled.layout, found.heads, assembled, source)


def _open_directory(directory: Path, dtype: Precision | None, source: Source | None = None) -> Parameters:
    tensors: Mapping[str, np.ndarray]
    if is_orbax(directory):
        description, tensors = checkpoint.describe(directory), OrbaxParameters(directory)
        shapes = tensors.shapes
        checkpoint.check_shapes(directory, description.config, shapes)
    else:
        description, tensors = checkpoint.open_directory(directory)
        shapes = {path: x.shape for path, x in tensors.items()}
    dtypes = compute_dtypes(shapes, dtype or _trunk(tensors, "aggregator/camera_token"))
    layout = {path: (shape, dtypes[path]) for path, shape in shapes.items()}
    heads = checkpoint.present_heads(shapes)
    return Parameters(description.config, layout, heads, tensors, description.source or source)


def _trunk(tensors: Mapping[str, np.ndarray], name: str) -> Precision:
    """The trunk's type on disk if none is requested: the tensor's if it has 16 bits, else float32."""
    halves: dict[np.dtype, Precision] = {np.dtype(ml_dtypes.bfloat16): "bfloat16", np.dtype(np.float16): "float16"}
    return halves.get(tensors[name].dtype, "float32") if name in tensors else "float32"


def _count(layout: Layout) -> int:
    return sum(math.prod(shape) for shape, _ in layout.values())


@contextmanager
def _progress(found: Parameters, path: Path) -> Iterator[Callable[[str], np.ndarray]]:
    """Yield a function that reads a tensor in its type, with a progress bar on a terminal.

    It raises CheckpointError for values that do not fit into float16.
    """
    with tqdm(
        total=_count(found.layout), desc=path.name, unit=" parameters", unit_scale=True, disable=not sys.stderr.isatty()
    ) as bar:

        def read(name: str) -> np.ndarray:
            with np.errstate(over="ignore"):
                tensor = np.asarray(found.tensors[name], found.layout[name][1])
            if tensor.dtype == np.float16 and not np.isfinite(tensor).all():
                raise CheckpointError(f"{path}: {name} has values that float16 cannot hold: use --dtype bfloat16")
            bar.update(tensor.size)
            return tensor

        yield read
