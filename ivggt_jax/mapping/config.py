"""How a stream is divided into submaps: frozen, hashable, checked when built."""

from dataclasses import dataclass

from ivggt_jax.config import check_whole

PLACE_FRAMES = 3
"""Frames per place, by which loops are found."""
PLACE_EVERY = 4
"""Frames from one frame of a place to the next."""


@dataclass(frozen=True, kw_only=True)
class SubmapConfig:
    """Submaps keep the camera of an endless stream: the network restarts for each, and each is linked to the one before.

    Raises ValueError for a value that makes no sense.
    """

    frames: int = 32
    """Frames of a submap, from one anchor to the next."""
    delay: int = 8
    """Most frames by which the next anchor is delayed while the picture is blurred, to wait for a sharper one."""
    refine: bool = True
    """Refine each pose, starting from the network's, by aligning the image with earlier ones (`mapping.refinement`).

    Without it, cuts in the video are noticed only where a submap begins.
    """
    keyframes: int = 4
    """Number of earlier frames (keyframes) that an image is aligned with jointly."""
    keyframe_every: int = 4
    """Frames from one keyframe to the next."""

    def holds_place(self, frames_per_step: int) -> bool:
        """Whether a place is complete before the next anchor, if nothing is wrong with the images."""
        passes = -(-self.frames // frames_per_step)
        # The pass of the anchor is the first of the new submap, too.
        return frames_per_step * max(1, passes - 1) > PLACE_EVERY * (PLACE_FRAMES - 1)

    def longest(self, frames_per_step: int) -> int:
        """Most frames that a submap has, unless images show nothing for long: a submap begins with a pass."""
        return -(-(self.frames + self.delay) // frames_per_step) * frames_per_step

    def __post_init__(self) -> None:
        check_whole(self)
        if self.frames < 2:
            raise ValueError(f"a submap needs at least 2 frames, not {self.frames}")
        if self.delay < 0:
            raise ValueError(f"delay must not be negative, but is {self.delay}")
        if self.keyframes < 1 or self.keyframe_every < 1:
            raise ValueError(
                f"keyframes and keyframe_every must be at least 1, not {self.keyframes} and {self.keyframe_every}"
            )
