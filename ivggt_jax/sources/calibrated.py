"""Undistorts pictures of a calibrated camera to those of a pinhole, so that the model's principal point is exactly right."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ivggt_jax.cameras.files import read_camera
from ivggt_jax.cameras.known import KnownCamera
from ivggt_jax.cameras.models import Camera, CameraError, pinhole
from ivggt_jax.cameras.undistortion import WIDEST, Undistortion, fill, focal_of
from ivggt_jax.sources.fit import Size, check_shape
from ivggt_jax.sources.frame import Fit, Picture, SourceError

logger = logging.getLogger(__name__)

MAPS_KEPT = 8
"""Number of undistortions kept: one for each direction and size."""


@dataclass(frozen=True)
class View:
    """One picture to pass on: a whole one, an undistorted one, or a part of a panorama."""

    picture: Picture
    masks: tuple[Image.Image, ...]
    """The user's masks, on the same pixels."""
    camera: KnownCamera | None = None
    suffix: str = ""
    """Suffix of its name, after the picture's."""


class Calibration:
    """The calibration given by `--camera`, applied to pictures."""

    def __init__(self, camera: str, degrees: float | None, towards: tuple[float, ...]):
        """Arguments as in `SourceConfig`. Raises SourceError for an invalid calibration, or when they contradict each other."""
        try:
            self._camera = read_camera(camera)
        except CameraError as error:
            raise SourceError(str(error)) from None
        self.panorama = self._camera.kind == "equirectangular"
        if degrees is not None and not 5 <= degrees <= 150:
            raise SourceError(f"camera_fov is from 5 to 150 degrees across, not {degrees}")
        if towards != (0.0,) and not self.panorama:
            raise SourceError(
                "camera_towards is for panoramas (--camera equirectangular): other cameras look where they look"
            )
        if not towards or len(set(towards)) != len(towards) or not np.isfinite(towards).all():
            raise SourceError(f"camera_towards are different directions in degrees, not {towards}")
        self._degrees, self._towards = degrees, towards
        self._maps: dict[tuple[object, ...], Undistortion] = {}
        self._told = False

    @property
    def views(self) -> int:
        """Number of frames per picture."""
        return len(self._towards)

    def view_size(self, size: Size) -> Size:
        """Size in pixels of the views made from pictures of a size; for panoramas, 4:3 at the panorama's resolution."""
        if not self.panorama:
            return size
        width = max(4, round(size[0] * (self._degrees or WIDEST) / 360))
        return width, round(0.75 * width)

    def of(
        self, picture: Picture, masks: Sequence[Image.Image], plan: Callable[[Size], tuple[Fit, Size]]
    ) -> list[View]:
        """The views of a picture with its masks; `plan` returns how a picture of a size is fitted to the model's input.

        Raises SourceError when the picture's shape differs from the calibration's.
        """
        size = picture.image.size
        try:
            camera = self._camera.of_size(*size)
        except CameraError as error:
            raise SourceError(str(error)) from None
        if self._camera.size not in (None, size) and not self._told:
            self._told = True
            logger.warning(
                "the camera was calibrated at %d×%d, and is scaled to %d×%d", *(self._camera.size or size), *size
            )
        for mask in masks:
            check_shape(mask.size, size)
        masks = [mask.resize(size, Image.Resampling.NEAREST) for mask in masks]
        fit, (width, height) = plan(self.view_size(size))
        # The centre of the model's input must be its principal point; the pinhole is chosen so that it is.
        middle = fit.intrinsics_to_original(np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]]))[:2, 2]
        centre = (float(middle[0]), float(middle[1]))
        return [self._view(camera, centre, fit, picture, masks, degrees) for degrees in self._towards]

    def _view(
        self,
        camera: Camera,
        centre: tuple[float, float],
        fit: Fit,
        picture: Picture,
        masks: Sequence[Image.Image],
        degrees: float,
    ) -> View:
        key = (camera.size, centre, fit, degrees)
        if key not in self._maps:
            if len(self._maps) == MAPS_KEPT:
                self._maps.clear()
            width = fit.original_size[0]
            wide = self._degrees or (WIDEST if self.panorama else None)
            focal = fill(camera, centre) if wide is None else focal_of(wide, width)
            self._maps[key] = Undistortion(camera, pinhole(focal, centre, fit.original_size), degrees)
        undo = self._maps[key]
        opaque = undo.known.astype(np.uint8) * 255
        if picture.opaque is not None:
            opaque = np.minimum(opaque, undo.mask(np.asarray(picture.opaque)))
        moved = Picture(
            Image.fromarray(undo.picture(np.asarray(picture.image))),
            None if opaque.all() else Image.fromarray(opaque),
            picture.levels,
        )
        return View(
            moved,
            tuple(Image.fromarray(undo.mask(np.asarray(mask))) for mask in masks),
            KnownCamera(camera, (undo.focal * fit.scale[0], undo.focal * fit.scale[1])),
            f"@{degrees:g}" if self.panorama else "",
        )
