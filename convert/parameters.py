"""Parameters from PyTorch-named tensors and back: strict, one tensor at a time."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from convert.names import Entry, name_table
from ivggt_jax import Model, ModelConfig
from ivggt_jax.model.parameters import abstract_params, compute_dtypes, flatten, unflatten


class ConversionError(ValueError):
    """Tensors that do not fit the model; the message lists every mismatch."""


def from_torch(
    tensors: Mapping[str, np.ndarray], config: ModelConfig | None = None, dtype: DTypeLike | None = None
) -> Model:
    """A model from tensors under PyTorch's names (VGGT, StreamVGGT and InfiniteVGGT share them).

    `tensors` is read one tensor at a time. Without `config` the published shapes are expected: numbers of heads cannot
    be read from shapes. `dtype` is the trunk's (None: bfloat16 on a GPU, float32 on a CPU); heads are float32.

    Raises ConversionError with all missing, unexpected and misshapen tensors.
    """
    shapes = {path: x.shape for path, x in flatten(abstract_params(config or ModelConfig.vggt_1b())).items()}
    table = name_table(config or ModelConfig.vggt_1b())
    expected = {name for entry in table.values() for name in entry.names}
    problems = [f"missing {name}" for name in sorted(expected - set(tensors))]
    problems += [f"unexpected {name}" for name in sorted(set(tensors) - expected)]
    params: dict[str, jax.Array] = {}
    if not problems:
        dtypes = compute_dtypes(shapes, dtype)
        for path, entry in table.items():
            found = _assemble(tensors, entry, shapes[path], dtypes[path], problems)
            if not problems:
                params[path] = jnp.asarray(found)
    if problems:
        hint = "" if config else "\nWithout a config only the published shapes are read: pass config= for others."
        raise ConversionError(f"{len(problems)} tensors do not fit the model:\n  " + "\n  ".join(problems) + hint)
    return Model(config or ModelConfig.vggt_1b(), unflatten(params))


def _assemble(
    tensors: Mapping[str, np.ndarray], entry: Entry, shape: tuple[int, ...], dtype: np.dtype, problems: list[str]
) -> np.ndarray:
    """One parameter of ours from its tensors; mismatches go to `problems`."""
    result = np.empty(shape, dtype)
    part = result if entry.stacked else result[None]
    for i, name in enumerate(entry.names):
        tensor = np.asarray(tensors[name])
        # The expected shape in PyTorch follows from ours by the inverse layout.
        wanted = entry.layout.to_torch(np.empty(part.shape[1:], np.bool_)).shape
        if tensor.shape != wanted:
            problems.append(f"{name} has shape {list(tensor.shape)}, expected {list(wanted)}")
            continue
        part[i] = entry.layout.from_torch(tensor).astype(dtype)
    return result


def to_torch(model: Model) -> Mapping[str, np.ndarray]:
    """The model's tensors under PyTorch's names and layouts, each made when it is asked for."""
    return _TorchView(model)


class _TorchView(Mapping[str, np.ndarray]):
    def __init__(self, model: Model):
        self._params = flatten(model.params)
        self._places = {
            name: (path, entry, i)
            for path, entry in name_table(model.config).items()
            for i, name in enumerate(entry.names)
        }

    def __getitem__(self, name: str) -> np.ndarray:
        path, entry, i = self._places[name]
        value = self._params[path]
        return np.ascontiguousarray(entry.layout.to_torch(np.asarray(value[i] if entry.stacked else value)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
