"""Short descriptions of trees of arrays, whatever their leaves are: arrays, shapes, tracers, or what a map made of them."""

from collections.abc import Iterable
from typing import Any

import jax


def megabytes(tree: Any) -> str:
    """Total size of all leaves that have one, such as "26 MB"."""
    sized = (x for x in jax.tree.leaves(tree) if hasattr(x, "size") and hasattr(x, "dtype"))
    return f"{sum(x.size * x.dtype.itemsize for x in sized) / 1e6:,.0f} MB"


def kinds(leaves: Iterable[Any]) -> str:
    """Types of the leaves, such as "bfloat16, float32"; for a leaf without a dtype its class name."""
    return ", ".join(sorted({str(getattr(x, "dtype", type(x).__name__)) for x in leaves}))


def shape(leaf: Any) -> str:
    """Type and shape of a leaf, such as "float32[2,9]"."""
    if not hasattr(leaf, "shape"):
        return type(leaf).__name__
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
