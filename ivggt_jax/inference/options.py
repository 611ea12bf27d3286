"""The options of `infer`, and what follows from them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro
from tyro.conf import OmitArgPrefixes, Suppress

from ivggt_jax.config import HeadName, ModelConfig, PolicyName, PresetName
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.options.align import AlignOptions
from ivggt_jax.options.export import BuiltOutput, ExportOptions, Output
from ivggt_jax.runs.room import Share
from ivggt_jax.sources import SourceConfig

DEFAULT_EXPORT: tuple[Output, ...] = ("tum", "intrinsics", "ply")
"""Default outputs, besides the saved frames."""


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """Memory of the stream, and limits on it."""

    preset: PresetName = "exact"
    """exact: as published; fast: four frames share a pass; small: also fewer tokens, in int8 (docs/performance.md)."""
    budget: int | None = None
    """Tokens kept, over all layers; by default 48 frames' worth (1,200,000 at 518×392; small: 20), or what fits in memory."""
    max_memory: str | None = None
    """Memory limit for weights, cache and computation, such as 8GB; precision, cache and budget are chosen to fit."""
    policy: PolicyName = "diversity"
    """Which tokens are forgotten first (docs/memory.md)."""
    anchor_frames: int = 1
    """Frames that are never evicted: 1 is the first, as published; more: at most so many, spread over the stream so far."""
    frames_per_step: int | None = None
    """Frames that share a pass through the network: higher throughput, later results. By default the preset's: 1 or 4."""
    camera_cache: Literal["reference", "per_iteration"] = "reference"
    """Which iterations of earlier frames a camera iteration sees: all (as published), or only the same one (as trained)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the trunk; auto is bfloat16 on a GPU, float32 on a CPU."""
    share: Suppress[Share | None] = None
    """Free memory, if other processes plan with it, too."""


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """Options of the command."""

    source: Annotated[
        SourceConfig,
        tyro.conf.arg(name="frame", help="Which frames, and how they are prepared."),
        tyro.conf.PositionalRequiredArgs,
        OmitArgPrefixes,
    ]
    checkpoint: str = "demo"
    """A converted model's folder, a .pth or .safetensors file, a published name such as lch01/StreamVGGT, or demo."""
    out: Path | None = None
    """Folder for the results; by default ivggt_out/ plus the name of the source."""
    overwrite: bool = False
    """Replace the results of an earlier run in the folder."""
    resume: bool = False
    """Continue a run that was stopped or killed; it ends with the same files as an uninterrupted run."""
    save_every: int | None = None
    """Frames between saves of the state that --resume needs; 0: only when stopped; by default about once a minute."""
    split: int | None = None
    """Divide a long video or folder among this many processes, submap by submap; results are the same (docs/fleet.md)."""
    export: tuple[Output, ...] = ()
    """Outputs; by default tum, intrinsics, ply, tracks if predicted, and, if there is room, npz (frames, which others need)."""
    heads: tuple[HeadName, ...] = ("camera", "depth")
    """What to predict; camera is always included. tracks follow a grid of points from the first frame."""
    points_from: Literal["depth", "head"] = "depth"
    """Compute points from depth and camera (sharper), or take them from the point head."""
    moving: Literal["keep", "drop", "separate"] = "keep"
    """drop: leave what moves out of clouds, refinement, loops and tracks. separate: also write it (docs/sensors.md)."""
    track_grid: int = 8
    """Points along each side of the tracks' grid."""
    view: bool = False
    """Show the run in a browser (adds npz); the page stays open after the run, until Ctrl-C."""
    port: int = 8080
    """Port of the page for --view, on this machine only."""
    memory: Annotated[MemoryOptions, OmitArgPrefixes] = field(default_factory=MemoryOptions)
    mapping: Annotated[
        SubmapOptions, tyro.conf.arg(help="How the camera is kept from drifting on a long stream."), OmitArgPrefixes
    ] = field(default_factory=SubmapOptions)
    align: Annotated[
        AlignOptions, tyro.conf.arg(help="A known trajectory to align the results with."), OmitArgPrefixes
    ] = field(default_factory=AlignOptions)
    options: Annotated[
        ExportOptions, tyro.conf.arg(name="export", help="How results become files."), OmitArgPrefixes
    ] = field(default_factory=ExportOptions)

    @property
    def predicted(self) -> tuple[HeadName, ...]:
        """Heads to run."""
        wanted = {"camera", *self.heads, *(("points",) if self.points_from == "head" else ())}
        return tuple(name for name in sorted(get_args(HeadName)) if name in wanted)

    def heads_of(self, model: ModelConfig) -> tuple[HeadName, ...]:
        """Heads to run with a model. If moving pixels are to be detected, the motion head is included if the model has one."""
        tells = self.moving != "keep" and "motion" in model.predicts and "motion" not in self.predicted
        return (*self.predicted, "motion") if tells else self.predicted

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Outputs to write."""
        tracks: tuple[Output, ...] = ("tracks",) if "tracks" in self.heads else ()
        apart: tuple[Output, ...] = ("moving",) if self.moving == "separate" else ()
        return tuple(dict.fromkeys((*(self.export or (*DEFAULT_EXPORT, *tracks)), *apart)))

    @property
    def growing(self) -> tuple[str, ...]:
        """Outputs written frame by frame, including saved frames if another output is made from them."""
        growing = [name for name in self.outputs if name not in get_args(BuiltOutput)]
        from_frames = self.built or self.view or self.align.trajectory or self.mapping.loops
        return tuple(dict.fromkeys([*growing, "npz"] if from_frames else growing))

    @property
    def built(self) -> tuple[Output, ...]:
        """Outputs built from saved frames once all are there."""
        return tuple(name for name in self.outputs if name in get_args(BuiltOutput))


def source_first(arguments: Sequence[str] | None) -> list[str]:
    """The command line (None: this process's), with the argument of `--frames`, the source's older name, moved to the front."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--frames" and (equals or words[i + 1 : i + 2]):
            source, rest = (value, words[i + 1 :]) if equals else (words[i + 1], words[i + 2 :])
            return [source, *words[:i], *rest]
    return words
