"""Tensors under other names."""

from collections.abc import Iterator, Mapping

import numpy as np


class Renamed(Mapping[str, np.ndarray]):
    """Tensors under other names, each read on access."""

    def __init__(self, tensors: Mapping[str, np.ndarray], names: Mapping[str, str]):
        """`names` maps each new name to the name in `tensors`."""
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
