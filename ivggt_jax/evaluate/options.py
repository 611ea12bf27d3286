"""Options that the evaluations share: the model and its memory."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from ivggt_jax.config import CacheConfig, PolicyName
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.model.parameters import Model
from ivggt_jax.weights import loading


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model."""

    checkpoint: str = "demo"
    """A converted model's folder, a .pth or .safetensors file, a published name such as lch01/StreamVGGT, or demo."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the trunk; auto is bfloat16 on a GPU, float32 on a CPU."""

    @property
    def settings(self) -> dict[str, str]:
        """The model, for a report."""
        return {"checkpoint": self.checkpoint, "precision": self.precision}

    def load(self) -> Model:
        """Load the model. Raises CheckpointError when it cannot be used."""
        return loading.load(self.checkpoint, None if self.precision == "auto" else self.precision)


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """The memory of a stream."""

    policy: PolicyName = "diversity"
    """Which tokens are forgotten first."""
    cache: Annotated[CacheConfig, tyro.conf.SuppressFixed] = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        if self.cache.max_frames != CacheConfig().max_frames:
            raise ValueError("cache.max_frames follows from the frames that are evaluated: leave it out")

    def cache_for(self, frames: int) -> CacheConfig:
        """The cache for a stream of `frames` frames."""
        return replace(self.cache, policy=self.policy, max_frames=frames)


def stream_settings(cache: CacheConfig, submaps: SubmapConfig | None) -> dict[str, str | int]:
    """The memory and the submaps of a stream, for a report."""
    return {
        "policy": str(cache.policy),
        "total budget": "unbounded" if cache.total_budget is None else cache.total_budget,
        "submaps": "off" if submaps is None else str(submaps),
    }
