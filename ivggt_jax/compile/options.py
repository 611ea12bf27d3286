"""Options of `ivggt compile`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ivggt_jax.config import PolicyName

Platform = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class CompileConfig:
    """Options of the command."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A converted model's folder, a .pth or .safetensors file, a published name such as lch01/StreamVGGT, or demo."""
    out: Path
    """Folder for the artefact; it must not exist yet."""
    size: str | None = None
    """Frame size as WIDTHxHEIGHT, such as 518x392; by default the model's own width, and 3/4 of it as height."""
    batch: int = 1
    """Streams in one step."""
    heads: tuple[Literal["camera", "depth", "points", "motion"], ...] = ("camera", "depth")
    """What to predict."""
    budget: int | None = None
    """Tokens kept for each stream, over all layers; by default 48 frames' worth."""
    policy: PolicyName = "diversity"
    """Which tokens are forgotten first (docs/memory.md)."""
    submaps: str = "auto"
    """Frames per submap; off: one stream; auto: 32 for the demo model, else 48 (docs/mapping.md)."""
    refine: bool = True
    """Refine the poses of submaps by aligning the images directly. Without it, most cuts in the video go unnoticed."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the trunk, on every platform; bfloat16 is for GPUs."""
    platforms: tuple[Platform, ...] = ("cpu", "cuda")
    """Kinds of devices to compile for; none need be present."""
    executables: bool = False
    """Also compile for this machine's device: starting on similar machines with this release of JAX then needs no compilation."""
