"""The known camera of a frame: the lens that took the picture, and the pinhole camera of the model's input."""

from dataclasses import dataclass

import numpy as np

from ivggt_jax.cameras.models import Camera


@dataclass(frozen=True)
class KnownCamera:
    """The calibration of a frame."""

    original: Camera
    """The lens, in pixels of the original picture."""
    focal: tuple[float, float]
    """Focal lengths of the model's input, in its pixels; its principal point is the image centre, as in pose encodings."""

    def intrinsics(self, height: int, width: int) -> np.ndarray:
        """Intrinsics float64 [3,3] of the model's input, height × width, with pixel centres at integers."""
        return np.array([[self.focal[0], 0, width / 2], [0, self.focal[1], height / 2], [0, 0, 1]])

    def to_original(self, pixels: np.ndarray, height: int, width: int) -> np.ndarray:
        """Pixels [..., 2] of the original picture for those of the model's input; pixel centres are integers in both."""
        plane = (pixels - np.array((width / 2, height / 2))) / self.focal
        return self.original.project(np.concatenate((plane, np.ones_like(plane[..., :1])), axis=-1))

    def from_original(self, pixels: np.ndarray, height: int, width: int) -> np.ndarray:
        """Pixels [..., 2] of the model's input for those of the original picture; NaN behind the camera."""
        rays = self.original.unproject(pixels)
        with np.errstate(invalid="ignore", divide="ignore"):
            plane = np.where(rays[..., 2:] > 0, rays[..., :2] / rays[..., 2:], np.nan)
        return plane * self.focal + np.array((width / 2, height / 2))
