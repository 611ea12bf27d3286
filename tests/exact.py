"""How tests compile: coarsely, and as users do where that decides how programs round."""

import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

OTHER_WAY = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    if version("jaxlib").startswith("0.10.")
    else ""
)
"""XLA's older way to make code of fused loops, which takes less time; later releases do not know it and refuse to start.

A program's code is made by one thread: in tests more gain nothing.
"""
COARSE = f"--xla_backend_optimization_level=0 {OTHER_WAY}"
"""XLA's flags in tests. Most of their time is compiling, and these leave a fifth of it. `XLA_FLAGS= pytest` goes without."""


def as_users_do() -> str:
    """`XLA_FLAGS` without the older way, for processes that a test starts: their programs round as those of `exact` do."""
    return os.environ.get("XLA_FLAGS", "").replace(OTHER_WAY, "")


@cache
def exact(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The function, jitted or not, as another that is compiled the newer way: programs fused differently then round alike.

    For comparisons to the bit, or nearly; options: of `jax.jit`.
    """
    return jax.jit(function, compiler_options={"xla_cpu_use_fusion_emitters": True} if OTHER_WAY else None, **options)
