"""What a run knows about one finished frame: the record that every writer takes."""

from dataclasses import dataclass

import numpy as np

from ivggt_jax.mapping.state import MapRecord
from ivggt_jax.sources.frame import Frame

LONGEST_FOCAL = 1e6
"""Pixels. A network may say that its field of view is 0, whose focal length is infinite: it is given as this one."""


@dataclass(frozen=True)
class Result:
    """One finished frame, NumPy on the host. Lengths are in the model's unit: it is right up to scale only."""

    frame: Frame
    cam_from_world: np.ndarray
    """float64 [3, 4], OpenCV axes; the world is the first camera's frame."""
    intrinsics: np.ndarray
    """float64 [3, 3], in pixels of the model's input, pixel = integer index."""
    depth: np.ndarray | None = None
    """float32 [H, W]: z in the camera, not distance."""
    depth_confidence: np.ndarray | None = None
    """float32 [H, W]"""
    points: np.ndarray | None = None
    """float32 [H, W, 3] in the world: from the point head, or depth unprojected."""
    points_confidence: np.ndarray | None = None
    """float32 [H, W]"""
    tracks: np.ndarray | None = None
    """float32 [N, 2] as (x, y), in pixels of the model's input."""
    visibility: np.ndarray | None = None
    """float32 [N]"""
    moving: np.ndarray | None = None
    """bool [H, W]: what moves; the frame's mask leaves it out, and it is nowhere masked otherwise. None where nobody told."""
    map: MapRecord | None = None
    """Which submap the frame belongs to, and where that lies, in a stream with submaps. NumPy, without leading axes."""

    @property
    def world_from_cam(self) -> np.ndarray:
        """float64 [3, 4]: takes points of the camera into the world; its last column is the camera's position."""
        rotation = self.cam_from_world[:, :3].T
        return np.concatenate((rotation, -rotation @ self.cam_from_world[:, 3:]), axis=1)

    @property
    def original_intrinsics(self) -> np.ndarray:
        """float64 [3, 3], in pixels of the original image, pixel = integer index: resize, crop and padding undone."""
        return self.frame.fit.intrinsics_to_original(self.intrinsics)

    def to_original(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [N, 2] of the model's input in the original image, pixel = integer index: there a calibrated lens distorts."""
        if self.frame.camera is not None:
            height, width, _ = self.frame.image.shape
            return self.frame.camera.to_original(pixels, height, width)
        return (pixels + 0.5 - self.frame.fit.offset) / self.frame.fit.scale - 0.5
