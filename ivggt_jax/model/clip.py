"""The interface between the network and what its blocks attend to. `Clip` is that of a clip; streams have memories."""

from dataclasses import dataclass, field
from typing import Literal, Protocol, Self, TypeVar, runtime_checkable

import jax

from ivggt_jax.kernels.attention import attend, attend_causal

ClipMode = Literal["offline", "causal"]
"""Whether a frame of a clip sees all frames, or only itself and earlier ones."""


@runtime_checkable
class Memory(Protocol):
    """What attention across frames reads and writes: a pytree that is passed from layer to layer.

    B streams of S frames with P tokens each pass together as [B·S,P,…], the frames of one stream next to each other.
    """

    def attend(self, layer: jax.Array, query: jax.Array, keys: jax.Array, values: jax.Array) -> tuple[jax.Array, Self]:
        """Query, keys and values [B·S,P,head,head_dim] of layer [] → attention output of the same shape, and the new memory.

        A head that iterates runs its layers several times; `layer` then continues counting.
        """


@runtime_checkable
class TokenMemory(Memory, Protocol):
    """A memory of the aggregator's tokens, which may also observe what the MLPs do to them."""

    def note(self, layer: jax.Array, x: jax.Array, change: jax.Array) -> Self:
        """Record what a layer's MLP adds to its tokens: the tokens `x` and the `change`, both [B·S,P,width]."""


MemoryT = TypeVar("MemoryT", bound=Memory)
TokenMemoryT = TypeVar("TokenMemoryT", bound=TokenMemory)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clip:
    """A whole clip at once: all keys and values come with the query, and nothing is stored."""

    frames: int = field(metadata={"static": True})
    mode: ClipMode = field(metadata={"static": True})

    def attend(self, layer: jax.Array, query: jax.Array, keys: jax.Array, values: jax.Array) -> tuple[jax.Array, Self]:
        """See `Memory`."""
        shape = query.shape
        query, keys, values = (x.reshape(-1, self.frames * shape[1], *shape[2:]) for x in (query, keys, values))
        causal = self.mode == "causal"
        attended = attend_causal(query, keys, values, self.frames) if causal else attend(query, keys, values)
        return attended.reshape(shape), self

    def note(self, layer: jax.Array, x: jax.Array, change: jax.Array) -> Self:
        """See `TokenMemory`."""
        return self
