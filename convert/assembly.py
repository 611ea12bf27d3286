"""Builds our parameters from PyTorch's tensors: strictly, and one at a time."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ivggt_jax.config import PUBLISHED_HEADS, ModelConfig
from ivggt_jax.convert.names import name_table
from ivggt_jax.model.parameters import abstract_model, compute_dtypes, flatten


class ConversionError(ValueError):
    """Tensors that do not fit the model; the message lists every mismatch."""

    def __init__(self, problems: list[str], hint: str = ""):
        """Take the mismatches, a line each, and advice on what to do."""
        super().__init__(f"{len(problems)} tensors do not fit the model:\n  " + "\n  ".join(problems) + hint)
        self.problems = problems


def published(config: ModelConfig) -> ModelConfig:
    """The configuration with all heads and inputs that PyTorch's weights may have, and no other: which are there, files tell."""
    return replace(config, predicts=PUBLISHED_HEADS, depth_input=False)


def torch_shapes(config: ModelConfig, heads: Iterable[str] = PUBLISHED_HEADS) -> dict[str, tuple[int, ...]]:
    """Name and shape of every PyTorch tensor of a model with these heads."""
    table = name_table(config)
    found: dict[str, tuple[int, ...]] = {}
    for path, stacked in _shapes(config, heads).items():
        entry = table[path]
        shape = stacked[1:] if entry.stacked else stacked
        # The layout applied to an array without data yields its shape in PyTorch.
        shape = entry.layout.to_torch(np.broadcast_to(np.False_, shape)).shape
        found.update(dict.fromkeys(entry.names, shape))
    return found


def find_mismatches(
    tensors: Mapping[str, np.ndarray], config: ModelConfig, heads: Iterable[str] = PUBLISHED_HEADS
) -> list[str]:
    """All missing, unexpected and misshapen tensors, a line each; empty if the tensors fit a model with these heads."""
    expected = torch_shapes(config, heads)
    problems = _name_mismatches(expected, tensors)
    for name in sorted(expected.keys() & tensors.keys()):
        problems += _tensor_mismatches(name, tensors[name], expected[name])
    return problems


class Assembled(Mapping[str, np.ndarray]):
    """Our parameters by "/"-joined path, each built from its PyTorch tensors on access.

    Access raises ConversionError when their shapes do not fit.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        config: ModelConfig,
        dtype: DTypeLike | None,
        heads: Iterable[str] = PUBLISHED_HEADS,
    ):
        """Use `dtype` for the trunk (`compute_dtypes`); reads nothing yet.

        Raises ConversionError unless the names are those of the configuration with these heads.
        """
        self._expected = torch_shapes(config, heads)
        if problems := _name_mismatches(self._expected, tensors):
            raise ConversionError(problems)
        self._tensors = tensors
        shapes = _shapes(config, heads)
        self._table = {path: entry for path, entry in name_table(config).items() if path in shapes}
        dtypes = compute_dtypes(shapes, dtype)
        self.layout = {path: (shapes[path], dtypes[path]) for path in self._table}

    def __getitem__(self, path: str) -> np.ndarray:
        entry = self._table[path]
        result = np.empty(*self.layout[path])
        layers = result if entry.stacked else result[None]
        problems: list[str] = []
        for layer, name in enumerate(entry.names):
            tensor = self._tensors[name]
            problems += _tensor_mismatches(name, tensor, self._expected[name])
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


def _shapes(config: ModelConfig, heads: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Shape of each of our parameters, by "/"-joined path."""
    model = abstract_model(config, np.float32, heads)
    return {path: x.shape for path, x in flatten(model.params).items()}


def _tensor_mismatches(name: str, tensor: np.ndarray, expected: tuple[int, ...]) -> list[str]:
    if tensor.shape != expected:
        return [f"{name} has shape {list(tensor.shape)}, expected {list(expected)}"]
    if not jnp.issubdtype(tensor.dtype, jnp.floating):  # quantised, with scales that are not here
        return [f"{name} is {tensor.dtype}, not a floating-point tensor"]
    return []
