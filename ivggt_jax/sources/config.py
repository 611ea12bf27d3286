"""Where frames come from, and how they are prepared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ivggt_jax.sources.fit import PATCH, nearest_size
from ivggt_jax.sources.frame import SourceError

LIVE = ("cam:", "rtsp://", "rtsps://", "udp://", "http://", "https://")
"""Prefixes of cameras."""


def is_live(frames: str) -> bool:
    """Whether a source is a camera: its frames are to be taken when they come, and cannot be read again."""
    return frames.startswith(LIVE)


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where frames come from and how they are prepared.

    Raises SourceError when fields are out of range or contradict each other.
    """

    frames: Annotated[str, tyro.conf.arg(metavar="SOURCE")]
    """Folder of images, image, stack, quoted pattern, list (.txt .csv), video, ROS bag, MCAP, - (paths on stdin), cam:N or URL"""
    mode: Literal["crop", "pad"] = "crop"
    """crop: full width; tall images lose top and bottom. pad: nothing is lost; white padding makes a square."""
    size: int | None = None
    """Width of the model's input in pixels (pad: its side), a multiple of 14. By default the model's own, or 518."""
    stride: int = 1
    """Take every n-th frame."""
    max_frames: int | None = None
    """Stop after this many frames; for panoramas, after this many pictures."""
    fps: float | None = None
    """Frames per second to take from a video, instead of a stride."""
    start: float = 0.0
    """Time in a video at which to start, in seconds."""
    end: float | None = None
    """Time in a video at which to end, in seconds."""
    topic: str | None = None
    """Topic with the images in a robot's recording (.bag, .mcap, folder); needed if several topics have images."""
    masks: Path | None = None
    """Folder of masks named like their frames (000000.png for video frames); black and transparent pixels are left out."""
    camera: str | None = None
    """Calibration: a file of COLMAP, OpenCV, ROS, Kalibr or nerfstudio, numbers, or equirectangular (docs/sensors.md)."""
    camera_fov: float | None = None
    """Horizontal field of view of undistorted images, in degrees; by default as wide as they are filled, at most 90."""
    camera_towards: tuple[float, ...] = (0.0,)
    """Directions of the views cut from each panorama, in degrees to the right."""
    depth: Path | None = None
    """Sensor depth, registered to the frames: a folder of maps named like them or by time, a TUM list, or a recording's topic."""
    depth_scale: float = 1000.0
    """Steps per metre in integer depth maps: 1000 for millimetres, 5000 for TUM."""
    exif: bool = True
    """Turn photographs upright by their EXIF orientation."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with an unreadable frame: stop; or skip it, count it and continue."""

    @property
    def most_frames(self) -> int | None:
        """The most frames that are taken, one for every view of a panorama; None: as many as there are."""
        return None if self.max_frames is None else self.max_frames * len(self.camera_towards)

    def __post_init__(self) -> None:
        if self.size is not None and (self.size <= 0 or self.size % PATCH):
            raise SourceError(
                f"size {self.size} must be a multiple of {PATCH}; the nearest is {nearest_size(self.size)}"
            )
        if self.mode not in ("crop", "pad"):
            raise SourceError(f"mode must be 'crop' or 'pad', not {self.mode!r}")
        if self.on_error not in ("stop", "skip"):
            raise SourceError(f"on_error must be 'stop' or 'skip', not {self.on_error!r}")
        if self.stride < 1:
            raise SourceError(f"stride must be at least 1, not {self.stride}")
        if self.max_frames is not None and self.max_frames < 1:
            raise SourceError(f"max_frames must be at least 1, not {self.max_frames}")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise SourceError(f"fps must be positive, not {self.fps}")
        if self.fps is not None and self.stride != 1:
            raise SourceError("fps and stride are two ways to thin out a video; give one of them")
        if not 0 <= self.start < float("inf"):
            raise SourceError(f"start must be 0 or more seconds, not {self.start}")
        if self.camera is None and (self.camera_fov is not None or self.camera_towards != (0.0,)):
            raise SourceError(
                "camera_fov and camera_towards say what is made of a calibrated camera's pictures: give camera"
            )
        if not 0 < self.depth_scale < float("inf"):
            raise SourceError(f"depth_scale must be positive, not {self.depth_scale}")
        if self.end is not None and not self.start < self.end:
            raise SourceError(f"end ({self.end} s) must come after start ({self.start} s)")
