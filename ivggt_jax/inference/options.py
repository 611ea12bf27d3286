"""The options of `infer`, and what follows from them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from ivggt_jax.config import HeadName, PolicyName, PresetName
from ivggt_jax.export import BuiltOutput, Output
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.runs.known_trajectory import AlignOptions
from ivggt_jax.sources import SourceConfig
from ivggt_jax.writers import ExportOptions

DEFAULT_EXPORT: tuple[Output, ...] = ("tum", "intrinsics", "ply")
"""What is written where nobody says what, beside the saved frames ."""


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """Options of the command."""

    source: Annotated[SourceConfig, tyro.conf.arg(name="")]
    checkpoint: str = "demo"
    """A converted model's folder, a .pth or .safetensors file, a published name such as lch01/StreamVGGT, or demo."""
    out: Path | None = None
    """Folder for the results; by default ivggt_out/ and the name of the source."""
    overwrite: bool = False
    """Replace what an earlier run left in the folder."""
    resume: bool = False
    """Go on with a run that was stopped or killed; it ends with the same files as if it had not been."""
    save_every: int | None = None
    """Frames between saves of the state that --resume needs; 0: only when stopped; by default about once a minute."""
    export: tuple[Output, ...] = ()
    """What to write; by default tum, intrinsics, ply and, of a folder or video that fits, the frames (npz) that view and
    export need. colmap, nerfstudio, glb and html are built at the end from saved frames, which they add."""
    heads: tuple[HeadName, ...] = ("camera", "depth")
    """What to predict, camera always; tracks follow a grid of points from the first frame."""
    points_from: Literal["depth", "head"] = "depth"
    """Points from depth and camera (sharper), or from the point head."""
    track_grid: int = 8
    """Points along each side of the tracks' grid."""
    preset: PresetName = "exact"
    """exact: as published; fast: four frames share a pass, and evict after it; small: besides, fewer tokens, in int8
    (docs/performance.md)."""
    budget: int | None = None
    """Tokens kept, over all layers; by default those of 48 frames (1,200,000 at 518×392), with --preset small 20, or
    what fits the free memory."""
    max_memory: str | None = None
    """Most that weights, cache and computing may take together, such as 8GB: precision, cache and budget follow from it."""
    policy: PolicyName = "diversity"
    """What is forgotten first (docs/memory.md)."""
    anchor_frames: int = 1
    """Whole frames that stay: 1 is the first, as published; more: at most so many, spread evenly over the stream so far."""
    frames_per_step: int | None = None
    """Frames that share a pass through the network: faster where there is much to compute at once, later results. By default
    the preset's: 1, or 4."""
    camera_cache: Literal["reference", "per_iteration"] = "reference"
    """What an iteration of the camera head sees of earlier frames: all iterations (as published), or its own (as trained)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the trunk; auto is bfloat16 on a GPU, float32 on a CPU."""
    view: bool = False
    """Show the run in a browser while it goes on (adds npz), and until Ctrl-C when it is over."""
    port: int = 8080
    """Of the page that --view serves, on this machine only."""
    mapping: Annotated[SubmapOptions, tyro.conf.arg(name="")] = field(default_factory=SubmapOptions)
    align: Annotated[AlignOptions, tyro.conf.arg(name="")] = field(default_factory=AlignOptions)
    options: Annotated[ExportOptions, tyro.conf.arg(name="")] = field(default_factory=ExportOptions)

    @property
    def predicted(self) -> tuple[str, ...]:
        """The heads to run."""
        return tuple(sorted({"camera", *self.heads} | ({"points"} if self.points_from == "head" else set())))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What to write."""
        return self.export or DEFAULT_EXPORT

    @property
    def growing(self) -> tuple[str, ...]:
        """Outputs written frame by frame, saved frames among them where something is made of those."""
        growing = [name for name in self.outputs if name not in get_args(BuiltOutput)]
        from_frames = self.built or self.view or self.align.trajectory
        return tuple(dict.fromkeys([*growing, "npz"] if from_frames else growing))

    @property
    def built(self) -> tuple[str, ...]:
        """Outputs built from saved frames when those are complete."""
        return tuple(name for name in self.outputs if name in get_args(BuiltOutput))
