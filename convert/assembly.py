"""Our parameters from PyTorch's tensors, strictly, and one at a time."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from jax.typing import DTypeLike

from ivggt_jax.config import ModelConfig
from ivggt_jax.convert.names import name_table
from ivggt_jax.model.parameters import abstract_params, compute_dtypes, flatten


class ConversionError(ValueError):
    """Tensors that do not fit the model; the message lists every mismatch."""

    def __init__(self, problems: list[str], hint: str = ""):
        """Take the mismatches, a line each, and what to do about them."""
        super().__init__(f"{len(problems)} tensors do not fit the model:\n  " + "\n  ".join(problems) + hint)
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
    shapes = {name: tensors[name].shape for name in sorted(expected.keys() & tensors.keys())}
    return _name_mismatches(expected, tensors) + _shape_mismatches(expected, shapes)


class Assembled(Mapping[str, np.ndarray]):
    """Our parameters by "/"-joined path, each made of its PyTorch tensors when it is asked for.

    Asking raises ConversionError when they have other shapes.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], config: ModelConfig, dtype: DTypeLike | None):
        """Take `dtype` for the trunk (`compute_dtypes`); reads nothing.

        Raises ConversionError unless the names are those of the configuration.
        """
        self._expected = torch_shapes(config)
        if problems := _name_mismatches(self._expected, tensors):
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
        problems = []
        for layer, name in enumerate(entry.names):
            tensor = self._tensors[name]
            problems += _shape_mismatches(self._expected, {name: tensor.shape})
            if not problems:
                layers[layer] = entry.layout.from_torch(tensor)
        if problems:
            raise ConversionError(problems)
        return result

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def _name_mismatches(expected: Collection[str], found: Collection[str]) -> list[str]:
    problems = [f"missing {name}" for name in sorted(set(expected) - set(found))]
    return problems + [f"unexpected {name}" for name in sorted(set(found) - set(expected))]


def _shape_mismatches(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [
        f"{name} has shape {list(shape)}, expected {list(expected[name])}"
        for name, shape in found.items()
        if shape != expected[name]
    ]
