"""Camera models: projection of directions to pixels, and back. NumPy, float64.

Axes are OpenCV's: x right, y down, z forward. Pixel coordinates are integer at pixel centres, so the centre of the first pixel is
(0, 0), as in OpenCV, ROS and Kalibr; files that count from its corner differ by half a pixel.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

Kind = Literal["pinhole", "brown", "fisheye", "equirectangular"]

COEFFICIENTS: dict[str, int] = {"pinhole": 0, "brown": 8, "fisheye": 4, "equirectangular": 0}
"""Number of distortion coefficients of each kind."""
STEEPEST = 8.0
"""Tangent of the largest angle from the axis at which a Brown-Conrady polynomial is evaluated: 83 degrees."""
STEPS = 4096
"""Entries of the table from which an inverse starts."""
NEWTON = 8
"""Newton steps that refine it."""
SAME_SHAPE = 1.0
"""Largest difference in pixels between a picture's height and that of its calibration, scaled to its width."""


class CameraError(ValueError):
    """A calibration cannot be used; the message names it, the fault and the remedy."""


@dataclass(frozen=True)
class Camera:
    """A camera with its lens.

    - `pinhole`: no distortion.
    - `brown`: OpenCV's k1, k2, p1, p2, k3, k4, k5, k6 (Brown 1966, Conrady 1919; rational: Claus and Fitzgibbon, CVPR 2005).
    - `fisheye`: k1, …, k4 of θ + k1·θ³ + … + k4·θ⁹ (Kannala and Brandt, PAMI 2006).
    - `equirectangular`: the whole sphere, longitude along x; its numbers follow from the size.
    """

    kind: Kind
    focal: tuple[float, float]
    """Pixels along x and y; for a panorama, pixels per radian."""
    centre: tuple[float, float]
    """The principal point."""
    distortion: tuple[float, ...] = ()
    """8 coefficients for `brown`, 4 for `fisheye`, otherwise none."""
    size: tuple[int, int] | None = None
    """Width and height in pixels of the calibrated image; None: those of any picture."""

    def of_size(self, width: int, height: int) -> "Camera":
        """The same camera for pictures of another size but the same shape.

        Raises CameraError for another shape, and for pictures that do not contain the principal point.
        """
        if self.kind == "equirectangular":
            if abs(width - 2 * height) > 2:
                raise CameraError(f"a panorama of the whole sphere is twice as wide as high, not {width}×{height}")
            focal, centre = (width / (2 * np.pi), height / np.pi), ((width - 1) / 2, (height - 1) / 2)
            return replace(self, focal=focal, centre=centre, size=(width, height))
        across, down = self.size or (width, height)
        if not (0 <= self.centre[0] < across and 0 <= self.centre[1] < down):
            raise CameraError(
                f"the calibration's principal point ({self.centre[0]:g}, {self.centre[1]:g}) lies outside a picture of "
                f"{across}×{down}: give the calibration of such pictures"
            )
        if self.size is None or self.size == (width, height):
            return replace(self, size=(width, height))
        if abs(height - width * self.size[1] / self.size[0]) > SAME_SHAPE:
            raise CameraError(
                f"the camera was calibrated with pictures of {self.size[0]}×{self.size[1]}, and this one has {width}×{height} "
                "pixels: another shape, cut or turned; give the calibration of such pictures"
            )
        scale = (width / self.size[0], height / self.size[1])
        return replace(
            self,
            focal=(self.focal[0] * scale[0], self.focal[1] * scale[1]),
            centre=((self.centre[0] + 0.5) * scale[0] - 0.5, (self.centre[1] + 0.5) * scale[1] - 0.5),
            size=(width, height),
        )

    def project(self, directions: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] of directions [..., 3] of any length; NaN where the lens does not see them."""
        x, y, z = np.moveaxis(np.asarray(directions, np.float64), -1, 0)
        if self.kind == "equirectangular":
            plane = np.stack((np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))), axis=-1)
            return plane * self.focal + self.centre
        across = np.hypot(x, y)
        if self.kind == "fisheye":
            angle = np.arctan2(across, z)
            with np.errstate(invalid="ignore", divide="ignore"):
                plane = np.stack((x, y), axis=-1) * np.where(across > 0, self._bent(angle) / across, 1)[..., None]
            seen = angle <= self._limit
        else:
            seen = (z > 0) & (across <= self._limit * z)
            plane = np.stack((x, y), axis=-1) / np.where(seen, z, np.nan)[..., None]
            plane = self._distorted(plane) if self.kind == "brown" else plane
        return np.where(seen[..., None], plane * self.focal + self.centre, np.nan)

    def unproject(self, pixels: np.ndarray) -> np.ndarray:
        """Unit directions [..., 3] of pixels [..., 2]; NaN where a pixel sees nothing."""
        plane = (np.asarray(pixels, np.float64) - self.centre) / self.focal
        if self.kind == "equirectangular":
            longitude, latitude = np.moveaxis(plane, -1, 0)
            flat = np.cos(latitude)
            return np.stack((flat * np.sin(longitude), np.sin(latitude), flat * np.cos(longitude)), axis=-1)
        if self.kind == "fisheye":
            radius = np.linalg.norm(plane, axis=-1)
            angle = self._straightened(radius)
            with np.errstate(invalid="ignore", divide="ignore"):
                flat = plane * np.where(radius > 0, np.sin(angle) / radius, 1)[..., None]
            return np.concatenate((flat, np.cos(angle)[..., None]), axis=-1)
        plane = self._undistorted(plane) if self.kind == "brown" else plane
        rays = np.concatenate((plane, np.ones_like(plane[..., :1])), axis=-1)
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Radii from the axis (angles for a fisheye) and their distorted values, as far as these increase."""
        reach = np.pi if self.kind == "fisheye" else STEEPEST
        radii = np.linspace(0, reach, STEPS)
        bent = self._bent(radii)
        with np.errstate(invalid="ignore"):
            falls = np.flatnonzero(~(np.diff(bent) > 0))
        last = falls[0] + 1 if len(falls) else STEPS
        return radii[:last], bent[:last]

    @property
    def _limit(self) -> float:
        """Where the polynomial stops increasing; beyond that it no longer describes the lens."""
        return np.inf if self.kind == "pinhole" else float(self._table[0][-1])

    def _bent(self, radii: np.ndarray) -> np.ndarray:
        """Radial distortion of radii from the axis (angles for a fisheye)."""
        square = np.square(radii)
        if self.kind == "brown":
            return radii * self._radial(square)[0]
        return radii * (1 + square * np.polyval(self.distortion[::-1], square))

    def _straightened(self, bent: np.ndarray) -> np.ndarray:
        """The inverse of `_bent`; NaN beyond its range."""
        radii, table = self._table
        found = np.interp(bent, table, radii)
        k1, k2, k3, k4 = self.distortion
        for _ in range(NEWTON):
            square = found**2
            found = found - (self._bent(found) - bent) / (
                1 + square * (3 * k1 + square * (5 * k2 + square * (7 * k3 + square * 9 * k4)))
            )
        return np.where(bent <= table[-1], found, np.nan)

    def _radial(self, square: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The factor by which `brown` stretches the plane at squared radii [...], and its derivative by the squared radius."""
        k1, k2, _, _, k3, k4, k5, k6 = self.distortion
        above, below = 1 + square * (k1 + square * (k2 + square * k3)), 1 + square * (k4 + square * (k5 + square * k6))
        slope_above = k1 + square * (2 * k2 + 3 * square * k3)
        slope_below = k4 + square * (2 * k5 + 3 * square * k6)
        with np.errstate(divide="ignore", invalid="ignore"):
            return above / below, (slope_above * below - above * slope_below) / below**2

    def _distorted(self, plane: np.ndarray) -> np.ndarray:
        """Distort points [..., 2] of the plane z = 1 by `brown`."""
        _, _, p1, p2, *_ = self.distortion
        x, y = np.moveaxis(plane, -1, 0)
        square = x**2 + y**2
        radial, _ = self._radial(square)
        moved = (
            x * radial + 2 * p1 * x * y + p2 * (square + 2 * x**2),
            y * radial + p1 * (square + 2 * y**2) + 2 * p2 * x * y,
        )
        return np.stack(moved, axis=-1)

    def _undistorted(self, plane: np.ndarray) -> np.ndarray:
        """The inverse of `_distorted`, by Newton's method starting from the inverse of the radial part; NaN beyond its range."""
        _, _, p1, p2, *_ = self.distortion
        radii, table = self._table
        radius = np.linalg.norm(plane, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = plane * np.where(radius > 0, np.interp(radius, table, radii) / radius, 1)[..., None]
        for _ in range(NEWTON):
            x, y = np.moveaxis(found, -1, 0)
            radial, slope = self._radial(x**2 + y**2)
            wrong = self._distorted(found) - plane
            a = radial + 2 * x**2 * slope + 2 * p1 * y + 6 * p2 * x
            b = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
            d = radial + 2 * y**2 * slope + 6 * p1 * y + 2 * p2 * x
            down = a * d - b * b
            step = np.stack((d * wrong[..., 0] - b * wrong[..., 1], a * wrong[..., 1] - b * wrong[..., 0]), axis=-1)
            found = found - step / down[..., None]
        close = np.linalg.norm(self._distorted(found) - plane, axis=-1) < 1e-6
        return np.where((close & (np.linalg.norm(found, axis=-1) <= radii[-1]))[..., None], found, np.nan)


def pinhole(focal: float, centre: tuple[float, float], size: tuple[int, int]) -> Camera:
    """A camera of square pixels without distortion."""
    return Camera("pinhole", (focal, focal), centre, (), size)
