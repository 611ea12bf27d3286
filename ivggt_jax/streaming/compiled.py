"""`jax.jit` that type checkers see through: the function keeps its signature."""

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

import jax

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
Returned_co = TypeVar("Returned_co", covariant=True)


@runtime_checkable
class Compiled(Protocol[Parameters, Returned_co]):
    """A function that is compiled on its first call, once for each combination of shapes and types."""

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned_co:
        """Call the function."""

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """Lower the function for arguments or for their shapes."""


def compiled(*, donate: str) -> Callable[[Callable[Parameters, Returned]], Compiled[Parameters, Returned]]:
    """Decorator: `jax.jit` that donates the argument `donate`."""

    def decorate(function: Callable[Parameters, Returned]) -> Compiled[Parameters, Returned]:
        return cast(Compiled[Parameters, Returned], jax.jit(function, donate_argnames=donate))

    return decorate
