"""The record of one finished frame, which every writer takes."""

from dataclasses import dataclass

import numpy as np

from ivggt_jax.mapping.state import MapRecord
from ivggt_jax.sources.frame import Frame

LONGEST_FOCAL = 1e6
"""In pixels. A network may predict a zero field of view, which means an infinite focal length; it is limited to this."""


@dataclass(frozen=True)
class Result:
    """One finished frame, as NumPy arrays on the host. Lengths are in the model's unit, which is known only up to scale."""

    frame: Frame
    cam_from_world: np.ndarray
    """float64 [3, 4], OpenCV axes; the world is the first camera's frame."""
    intrinsics: np.ndarray
    """float64 [3, 3], in pixels of the model's input, pixel centres at integers."""
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
    """bool [H, W]: moving pixels, which the frame's mask excludes; False where masked for other reasons. None if not detected."""
    map: MapRecord | None = None
    """The frame's submap and its placement, in a stream with submaps. NumPy, without leading axes."""

    @property
    def world_from_cam(self) -> np.ndarray:
        """float64 [3, 4]: maps camera points to the world; its last column is the camera's position."""
        rotation = self.cam_from_world[:, :3].T
        return np.concatenate((rotation, -rotation @ self.cam_from_world[:, 3:]), axis=1)

    @property
    def original_intrinsics(self) -> np.ndarray:
        """float64 [3, 3], in pixels of the original image, pixel centres at integers: resize, crop and padding are undone."""
        return self.frame.fit.intrinsics_to_original(self.intrinsics)

    def to_original(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [N, 2] of the original image, distorted if calibrated, for those of the model's input; centres at integers."""
        if self.frame.camera is not None:
            height, width, _ = self.frame.image.shape
            return self.frame.camera.to_original(pixels, height, width)
        return (pixels + 0.5 - self.frame.fit.offset) / self.frame.fit.scale - 0.5
