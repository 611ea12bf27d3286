"""Our parameters from PyTorch's tensors, strictly, and one at a time."""

from collections.abc import Iterator, Mapping

import numpy as np
from jax.typing import DTypeLike

from convert.names import name_table
from ivggt_jax import ModelConfig
from ivggt_jax.model.parameters import abstract_params, compute_dtypes, flatten


class ConversionError(ValueError):
    """Tensors that do not fit the model; the message lists every mismatch."""

    def __init__(self, problems: list[str]):
        """Take the mismatches, a line each."""
        super().__init__(f"{len(problems)} tensors do not fit the model:\n  " + "\n  ".join(problems))
        self.problems = problems


def torch_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every PyTorch tensor of a model."""
    shapes = {path: x.shape for path, x in flatten(abstract_params(config)).items()}
    found = {}
    for path, entry in name_table(config).items():
        shape = shapes[path][1:] if entry.stacked else shapes[path]
        # The layout of an array without data tells its shape in PyTorch.
        shape = entry.layout.to_torch(np.broadcast_to(np.False_, shape)).shape
        found.update(dict.fromkeys(entry.names, shape))
    return found


def find_mismatches(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> list[str]:
    """All missing, unexpected and misshapen tensors, a line each; empty when they are the model's."""
    expected = torch_shapes(config)
    problems = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    for name in sorted(expected.keys() & tensors.keys()):
        shape = tensors[name].shape
        if shape != expected[name]:
            problems.append(f"{name} has shape {list(shape)}, expected {list(expected[name])}")
    return problems


class Assembled(Mapping[str, np.ndarray]):
    """Our parameters by "/"-joined path, each made of its PyTorch tensors when it is asked for."""

    def __init__(self, tensors: Mapping[str, np.ndarray], config: ModelConfig, dtype: DTypeLike | None):
        """Take `dtype` for the trunk (`compute_dtypes`).

        Raises ConversionError unless each tensor of the configuration is there, in its shape, and nothing else.
        """
        if problems := find_mismatches(tensors, config):
            raise ConversionError(problems)
        self._tensors = tensors
        self._table = name_table(config)
        shapes = {path: x.shape for path, x in flatten(abstract_params(config)).items()}
        dtypes = compute_dtypes(shapes, dtype)
        self.layout = {path: (shapes[path], dtypes[path]) for path in self._table}

    def __getitem__(self, path: str) -> np.ndarray:
        entry = self._table[path]
        result = np.empty(*self.layout[path])
        layers = result if entry.stacked else result[None]
        for layer, name in enumerate(entry.names):
            layers[layer] = entry.layout.from_torch(self._tensors[name])
        return result

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)
