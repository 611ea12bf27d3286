"""Programs compiled as users compile them where that decides how they round: for comparisons to the bit, or nearly."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax

EMITTERS = "xla_cpu_use_fusion_emitters"
"""XLA's way to make code of fused loops, which conftest switches off: with it programs that are fused otherwise round alike."""


@cache
def exact(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The function, jitted or not, as another that is compiled with it; options: of `jax.jit`."""
    return jax.jit(function, compiler_options={EMITTERS: True}, **options)
