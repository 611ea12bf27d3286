"""Shapes and types of arguments and results, as annotated in the package's heart, are checked wherever the tests go."""

from collections.abc import Callable
from typing import Any, TypeVar

import jaxtyping
from beartype import beartype

F = TypeVar("F", bound=Callable[..., Any])


def checking_shapes() -> Any:
    """A context: modules that are imported in it are checked from then on."""
    rooms = [f"ivggt_jax.{room}" for room in ("geometry", "memory", "model", "streaming")]
    return jaxtyping.install_import_hook(rooms, f"{__name__}.check")


def check(function: F) -> F:
    """All functions but two kinds: those that make trees, for JAX also makes trees of shapes, of axes, of anything, and methods
    of protocols, which speak of `Self` and are never called."""
    if function.__name__ == "__init__" or "Self" in str(function.__annotations__.get("return")):
        return function
    return beartype(function)
