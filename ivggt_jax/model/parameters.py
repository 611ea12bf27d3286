"""A model as a value: a configuration and a nested dict of arrays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ivggt_jax.config import ModelConfig
from ivggt_jax.kernels import platform
from ivggt_jax.model.brief import kinds, megabytes
from ivggt_jax.model.heads import HEADS
from ivggt_jax.model.vggt import VGGT

Params = dict[str, Any]
"""Nested dict of arrays with string keys."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Model:
    """A configuration and its parameters: a pytree, which can be passed to jit, grad and device_put."""

    config: ModelConfig = field(metadata={"static": True})
    params: Params
    """Nested dict of arrays; blocks of the same kind are stacked along a leading layer axis."""

    def __repr__(self) -> str:
        config, leaves = self.config, jax.tree.leaves(self.params)
        parameters = sum(getattr(x, "size", 0) for x in leaves)
        return (
            f"Model({parameters:,} parameters, {megabytes(leaves)} of {kinds(leaves)}; {config.depth} layers of width "
            f"{config.width} for images of {config.image_size} pixels; predicts {', '.join(config.predicts) or 'nothing'})"
        )

    @classmethod
    def initialise(cls, config: ModelConfig, key: jax.Array) -> "Model":
        """A model with random float32 parameters, for training from scratch."""
        model = cls(config, _plain(nnx.state(VGGT(config, rngs=nnx.Rngs(key)))))
        return cast(model, jnp.float32)  # with JAX_ENABLE_X64 some initialisers return float64

    def only_heads(self, heads: Iterable[str]) -> "Model":
        """The model with these heads only; the parameters of the others take no memory any more.

        Raises ValueError for a head that this model lacks.
        """
        chosen = set(heads)
        self.check_heads(chosen)
        config = replace(self.config, predicts=tuple(head for head in HEADS if head in chosen))
        kept = {"aggregator", *(part for head in config.predicts for part in HEADS[head].parts)}
        return Model(config, {part: params for part, params in self.params.items() if part in kept})

    def check_heads(self, heads: Iterable[str]) -> None:
        """Raises ValueError for a head that this model lacks."""
        own = self.config.predicts
        if absent := sorted(set(heads) - set(own)):
            raise ValueError(f"no parameters for {', '.join(absent)}; this model has {', '.join(own) or 'none'}")

    @property
    def network(self) -> VGGT:
        """The module that computes with these parameters. Use it inside jit: building it takes milliseconds."""
        graph, state = _structure(self.config)
        state = jax.tree.map(lambda x: x, state)
        nnx.replace_by_pure_dict(state, self.params)
        return nnx.merge(graph, state)


def abstract_params(config: ModelConfig) -> Params:
    """The nested dict of parameters, with float32 shapes in place of arrays."""
    return _plain(_structure(config)[1])


def abstract_model(config: ModelConfig, trunk: DTypeLike | None, heads: Iterable[str] | None = None) -> Model:
    """A model of shapes and types (`compute_dtypes`) instead of arrays. `heads`: only these; None: the configuration's."""
    shapes = flatten(abstract_params(config))
    dtypes = compute_dtypes(shapes, trunk)
    params = unflatten({path: jax.ShapeDtypeStruct(x.shape, dtypes[path]) for path, x in shapes.items()})
    model = Model(config, params)
    return model if heads is None else model.only_heads(heads)


def compute_dtypes(paths: Iterable[str], trunk: DTypeLike | None) -> dict[str, jnp.dtype]:
    """Type of each parameter, by "/"-joined path: `trunk` for the aggregator, float32 for the heads.

    `trunk` None is bfloat16 on a GPU and float32 on a CPU. Raises ValueError unless it is one of these or float16.
    """
    if trunk is None:
        trunk = jnp.bfloat16 if platform() == "gpu" else jnp.float32
    if jnp.dtype(trunk) not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"weights are float32, bfloat16 or float16, not {jnp.dtype(trunk)}; a cache may be int8 (CacheConfig)"
        )
    return {path: jnp.dtype(trunk if path.startswith("aggregator/") else jnp.float32) for path in paths}


def computes_bfloat16() -> bool:
    """Whether bfloat16 saves memory on this device. On a CPU JAX before 0.11 copies weights and cache to float32."""
    return platform() != "cpu" or jax.__version_info__ >= (0, 11)


def cast(model: Model, trunk: DTypeLike | None) -> Model:
    """The model with its trunk in another type (`compute_dtypes`)."""
    flat = flatten(model.params)
    dtypes = compute_dtypes(flat, trunk)
    return Model(model.config, unflatten({path: x.astype(dtypes[path]) for path, x in flat.items()}))


def flatten(params: Params) -> dict[str, Any]:
    """Flatten a nested dict to one level with "/"-joined paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: not isinstance(x, dict))
    return {"/".join(str(key.key) for key in path): x for path, x in leaves}


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    nested: Params = {}
    for path, x in flat.items():
        *parents, leaf = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = x
    return nested


def _plain(state: nnx.State[Any, Any]) -> Params:
    return unflatten(flatten(nnx.to_pure_dict(state)))


@cache
def _structure(config: ModelConfig) -> tuple[nnx.GraphDef[VGGT], nnx.State[Any, Any]]:
    return nnx.split(nnx.eval_shape(lambda: VGGT(config, rngs=nnx.Rngs(0))))
