"""Converts PyTorch-named tensors to parameters and back: strict, one tensor at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ivggt_jax.config import ModelConfig
from ivggt_jax.convert.assembly import Assembled, ConversionError, find_mismatches, published
from ivggt_jax.convert.names import name_table
from ivggt_jax.convert.recognise import recognise
from ivggt_jax.model.parameters import Model, flatten, unflatten


def from_torch(
    tensors: Mapping[str, np.ndarray], config: ModelConfig | None = None, dtype: DTypeLike | None = None
) -> Model:
    """A model from tensors under PyTorch's names (VGGT, StreamVGGT and InfiniteVGGT share them).

    `tensors` is read one tensor at a time. Without `config` the published architecture is expected, because numbers of attention
    heads do not show in shapes. `dtype` is the trunk's (None: bfloat16 on a GPU, float32 on a CPU); heads are float32.

    The model has the heads that are present. Raises ConversionError with all missing, unexpected and misshapen tensors, and
    CheckpointError for tensors that are not VGGT's, see `ivggt_jax.convert.recognise`.
    """
    shape = published(config or ModelConfig.vggt_1b())
    found = recognise(tensors, shape, "the mapping")
    try:
        assembled = Assembled(found.tensors, shape, dtype, found.heads)
        params = {path: jnp.asarray(x) for path, x in assembled.items()}
    except ConversionError:
        hint = "" if config else "\nWithout a config only the published shapes are read: pass config= for others."
        raise ConversionError(find_mismatches(found.tensors, shape, found.heads), hint) from None
    return Model(replace(shape, predicts=found.heads), unflatten(params))


def to_torch(model: Model) -> Mapping[str, np.ndarray]:
    """The model's tensors under PyTorch's names and layouts, each built on access."""
    return _TorchView(model)


class _TorchView(Mapping[str, np.ndarray]):
    def __init__(self, model: Model):
        self._params = flatten(model.params)
        self._places = {
            name: (path, entry, i)
            for path, entry in name_table(model.config).items()
            if path in self._params
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
