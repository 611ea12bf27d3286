"""Programs for a GPU that need not be here."""

from typing import Any

import jax
from jax.sharding import AbstractDevice, AbstractMesh


def for_cuda(function: Any, *arguments: Any) -> jax.stages.Lowered:
    """A jitted function lowered for an H200; arguments may be shapes.

    What looks at the platform while it is traced needs `jax.default_backend` patched, and a function that was not traced
    before: the platform is none of its arguments.
    """
    device = AbstractDevice("NVIDIA H200", 132, "gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        return function.trace(*arguments).lower(lowering_platforms=("cuda",))
