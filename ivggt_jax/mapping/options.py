"""Options for dividing a stream into submaps, for all commands that follow a stream."""

from dataclasses import dataclass, replace
from itertools import count

from ivggt_jax.config import ModelConfig
from ivggt_jax.mapping.config import SubmapConfig

LONG = 500
"""Longest stream, in frames, that stays undivided with other weights than the demo model's: the longest sequences of 7-Scenes, on
which InfiniteVGGT (arXiv 2601.02281) keeps its camera. On longer ones, such as KITTI's, it loses it."""
PUBLISHED_FRAMES = 48
"""Frames per submap for these weights: as many as the published budget holds without eviction."""


@dataclass(frozen=True, kw_only=True)
class SubmapOptions:
    """Submaps keep the camera of a long stream (docs/mapping.md). Raises ValueError for a value that makes no sense."""

    submaps: str = "auto"
    """Frames per submap; off: one stream; auto: 32 for the demo model, else 48, but off for up to 500 pictures."""
    refine: bool = True
    """Refine the poses of submaps by aligning the images directly. Without it, most cuts in the video go unnoticed."""
    loops: bool = False
    """Close loops: when the camera returns to a place, correct the whole map, into corrected/. Needs submaps; adds npz."""

    def __post_init__(self) -> None:
        if self.submaps not in ("auto", "off") and not (self.submaps.isdecimal() and int(self.submaps) >= 2):
            raise ValueError(f"--submaps is auto, off, or at least 2 frames, not {self.submaps!r}")
        if self.loops and self.submaps == "off":
            raise ValueError("--loops joins submaps, and --submaps off has none: leave one of them out")

    def choose(
        self, model: ModelConfig, length: int | None, needed: bool = False, frames_per_step: int = 1
    ) -> SubmapConfig | None:
        """The submaps for a stream of `length` frames, None if its end is not known. Returns None for an undivided stream.

        `needed`: another feature needs submaps, as --loops does. Raises ValueError where submaps are too short for --loops.
        """
        if self.submaps == "off":
            return None
        if self.submaps != "auto":
            chosen = SubmapConfig(frames=int(self.submaps), refine=self.refine)
            if self.loops and not chosen.holds_place(frames_per_step):
                longer = (
                    frames
                    for frames in count(chosen.frames)
                    if replace(chosen, frames=frames).holds_place(frames_per_step)
                )
                together = f" with {frames_per_step} frames per pass" if frames_per_step > 1 else ""
                raise ValueError(
                    f"--loops compares places, which take submaps of {next(longer)} frames{together}, not {self.submaps}"
                )
            return chosen
        demo = ModelConfig.demo()
        if replace(model, predicts=demo.predicts, depth_input=False) == demo:  # whichever heads and inputs are used
            return SubmapConfig(refine=self.refine)
        if length is not None and length <= LONG and not self.loops and not needed:
            return None
        return SubmapConfig(frames=PUBLISHED_FRAMES, refine=self.refine)
