"""Undistortion: pictures as a pinhole camera would have taken them, through maps that are computed once."""

import numpy as np
from scipy import sparse
from scipy.spatial.transform import Rotation

from ivggt_jax.cameras.models import Camera, CameraError

WIDEST = 90.0
"""Largest default field of view of a pinhole picture, in degrees; towards 180 its edges would take up all of it."""
BORDER = 64
"""Number of points checked along each side of a picture."""
WHITE = 255


class Undistortion:
    """Maps pictures of a camera to those of a pinhole with the same axis, or rotated to the right."""

    def __init__(self, camera: Camera, pinhole: Camera, degrees: float = 0.0):
        """Both cameras with their sizes; `degrees`: rotation of the pinhole to the right."""
        assert camera.size is not None
        assert pinhole.size is not None
        width, height = pinhole.size
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
        turn = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
        self._found = camera.project(pinhole.unproject(pixels) @ turn.T)
        self._from, self._to = camera.size, pinhole.size
        self.focal = pinhole.focal[0]
        """Focal length of the pinhole in pixels, along both axes."""
        self._panorama = camera.kind == "equirectangular"
        self.known = inside(self._found, self._from).reshape(height, width)
        """bool [H,W]: pixels that the camera sees."""
        self._weights = self._bilinear()

    def picture(self, image: np.ndarray) -> np.ndarray:
        """The pinhole's picture uint8 [H,W,3] from the camera's, bilinear; white where the camera sees nothing."""
        flat = image.reshape(-1, 3).astype(np.float32)
        found = np.rint(self._weights @ flat).astype(np.uint8)
        found[~self.known.reshape(-1)] = WHITE
        return found.reshape(self._to[1], self._to[0], 3)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask [H,W] for the pinhole from one for the camera, by nearest neighbour; 0 where the camera sees nothing."""
        width, height = self._from
        place = np.rint(np.nan_to_num(self._found)).astype(int)
        column = place[:, 0] % width if self._panorama else np.clip(place[:, 0], 0, width - 1)
        found = mask[np.clip(place[:, 1], 0, height - 1), column]
        return np.where(self.known, found.reshape(self.known.shape), 0)

    def _bilinear(self) -> sparse.csr_matrix:
        """The sparse matrix, with four weights per row, that interpolates the pinhole's pixels from the camera's."""
        width, height = self._from
        place = np.where(self.known.reshape(-1, 1), self._found, 0)
        corner = np.floor(place).astype(np.int64)
        share = (place - corner).astype(np.float32)
        columns, weights = [], []
        for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
            column, row = corner[:, 0] + right, np.clip(corner[:, 1] + below, 0, height - 1)
            column = column % width if self._panorama else np.clip(column, 0, width - 1)
            columns.append(row * width + column)
            weights.append(np.abs(1 - right - share[:, 0]) * np.abs(1 - below - share[:, 1]))
        rows = np.arange(0, 4 * len(place) + 1, 4)
        data = np.stack(weights, axis=1).reshape(-1), np.stack(columns, axis=1).reshape(-1), rows
        return sparse.csr_matrix(data, shape=(len(place), width * height))


def inside(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bool [...]: pixels [..., 2] are inside a picture of this width and height; False for NaN."""
    within: np.ndarray = (pixels >= -0.5) & (pixels <= np.asarray(size) - 0.5)
    return np.asarray(within.all(axis=-1))


def focal_of(degrees: float, width: int) -> float:
    """Focal length in pixels of a pinhole with this field of view across a width."""
    return float(width / 2 / np.tan(np.radians(degrees) / 2))


def fill(camera: Camera, centre: tuple[float, float]) -> float:
    """The shortest focal length, and so the widest view, of a pinhole of the camera's size whose picture is completely filled.

    It looks along the camera's axis with its principal point at `centre`, and sees `WIDEST` degrees at most. Found by bisection,
    to 1e-4.
    """
    assert camera.size is not None
    size = np.asarray(camera.size)
    along = np.linspace(-0.5, 0.5, BORDER)
    sides = [(along, np.full(BORDER, -0.5)), (along, np.full(BORDER, 0.5))]
    border = (
        np.concatenate([np.stack(side[::turn], axis=-1) for side in sides for turn in (1, -1)]) * size + (size - 1) / 2
    )

    def filled(focal: float) -> bool:
        rays = np.concatenate(((border - centre) / focal, np.ones((len(border), 1))), axis=-1)
        return bool(inside(camera.project(rays), camera.size or (0, 0)).all())

    low = focal_of(WIDEST, camera.size[0])
    if filled(low):
        return low
    high = max(*camera.focal, low)
    while not filled(high):
        high *= 1.5
        if high > 1e3 * low:
            raise CameraError("its distortion leaves no view without gaps: is it the calibration of these pictures?")
    while high > low * (1 + 1e-4):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if filled(middle) else (middle, high)
    return high
