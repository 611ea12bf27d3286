"""`jax.jit` that type checkers see through, and that looks at what a compiled program cannot see.

The network and the map are made for float32: other precisions would change their results, and no weights have them. So what is
compiled here ignores JAX_ENABLE_X64, which is for the program around it.
"""

import inspect
from collections.abc import Callable
from functools import update_wrapper, wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

import jax

from ivggt_jax.streaming.inputs import check_arrays, check_inside, in_range

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


def single_precision(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Decorator: inside the function, new arrays have 32 bits, whatever JAX_ENABLE_X64 says."""

    @wraps(function)
    def narrow(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return narrow


def compiled(function: Callable[Parameters, Returned]) -> Compiled[Parameters, Returned]:
    """Decorator: `jax.jit` that donates the argument `state`.

    Raises ValueError for a state that an earlier call used up, for lists instead of arrays, for frames (`frame`, `frames`) that
    `in_range` refuses, and for query points that `check_inside` refuses.
    """
    return cast(Compiled[Parameters, Returned], _Compiled(function))


class _Compiled:
    def __init__(self, function: Callable[..., Any]):
        self._jitted = jax.jit(function, donate_argnames="state")
        self._names = list(inspect.signature(function).parameters)
        update_wrapper(self, function)

    @single_precision
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(self._names, args, strict=False)) | kwargs
        counted = getattr(given.get("state"), "frame", None)
        if isinstance(counted, jax.Array) and not isinstance(counted, jax.core.Tracer) and counted.is_deleted():
            raise ValueError("this state was used up by an earlier call: go on with the state that it returned")
        check_arrays(**{name: given.get(name) for name in ("frame", "frames", "masks", "depth", "query_points")})
        for name in ("frame", "frames"):
            if name in given:
                in_range(given[name])
        if given.get("query_points") is not None:
            check_inside(given["query_points"], given["state"].settings.height, given["state"].settings.width)
        return self._jitted(*args, **kwargs)

    @single_precision
    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        return self._jitted.lower(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jitted, name)
