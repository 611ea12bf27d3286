"""`jax.jit` that type checkers see through: the function keeps its signature."""

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

import jax

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
Returned_co = TypeVar("Returned_co", covariant=True)


@runtime_checkable
class Compiled(Protocol[Parameters, Returned_co]):
    """A function that is compiled when it is first called, for each kind of arguments."""

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned_co:
        """What the function returns."""

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """The program, for arguments or their shapes."""


def compiled(*, donate: str) -> Callable[[Callable[Parameters, Returned]], Compiled[Parameters, Returned]]:
    """A decorator: `jax.jit`, with the argument `donate` used up by the call."""

    def decorate(function: Callable[Parameters, Returned]) -> Compiled[Parameters, Returned]:
        return cast(Compiled[Parameters, Returned], jax.jit(function, donate_argnames=donate))

    return decorate
