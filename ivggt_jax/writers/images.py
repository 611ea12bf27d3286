"""`images/`: the picture files that COLMAP and nerfstudio models refer to, and each one's camera.

Where the originals are at hand they are linked (or, if they lie turned in their file or have an unusual kind of
pixel, written as the model took them), and cameras are in their pixels. Frames of a video or a camera have no image
file, and an original of another size is not the one that the model saw: such frames are written as the model saw them,
with cameras in those pixels. Either way image and camera belong together.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ivggt_jax.sources.frame import Fit
from ivggt_jax.sources.image_file import read_image
from ivggt_jax.writers.files import naming, replacing
from ivggt_jax.writers.result import Result

ORIENTATION = 0x0112
"""EXIF tag of how an image lies in its file; 1 is upright, from 5 on width and height are exchanged."""


@dataclass(frozen=True)
class View:
    """One frame's picture file and the camera that took it."""

    name: str
    """Of the file in `images/`."""
    fit: Fit
    """From this picture to the model's input."""
    intrinsics: np.ndarray
    """float64 [3, 3] in the picture's pixels, counted from the corner of the first pixel, as COLMAP does."""
    cam_from_world: np.ndarray
    """float64 [3, 4]"""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.fit.original_size

    def from_model(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [N, 2] of the model's input (integer index = centre) in the picture, counted from the corner."""
        return (pixels + 0.5 - self.fit.offset) / self.fit.scale


def place_image(result: Result, folder: Path, originals: Path | None) -> View:
    """Puts the frame's picture into `folder` and returns its view. Raises WriteError when the disk is full."""
    frame = result.frame
    name, fit = None, frame.fit
    if originals and (originals / frame.name).is_file():
        name = _place_original(originals / frame.name, folder, fit.original_size)
    if name is None:
        height, width = frame.image.shape[:2]
        # Beside originals also its own name: one of them may be called by the number.
        name = f"{frame.index:06d}.{frame.name}.png" if originals else f"{frame.index:06d}.png"
        fit = Fit((width, height), (1.0, 1.0), (0.0, 0.0))
        _write_png(folder / name, Image.fromarray(frame.image))
    from_corner = fit.intrinsics_to_original(result.intrinsics)
    from_corner[:2, 2] += 0.5
    return View(name, fit, from_corner, result.cam_from_world)


def shared_intrinsics(views: list[View]) -> np.ndarray:
    """The median [3, 3] of all views' intrinsics. Raises ValueError when the pictures differ in size."""
    sizes = sorted({view.size for view in views})
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height}" for width, height in sizes[:4])
        raise ValueError(f"--shared-camera needs pictures of one size, but these have {len(sizes)}: {listed}")
    return np.median([view.intrinsics for view in views], axis=0)


def _place_original(original: Path, folder: Path, size: tuple[int, int]) -> str | None:
    """Links or converts an original image, and returns its name; None where it does not have the size."""
    with Image.open(original) as image:
        stored, mode, orientation = image.size, image.mode, image.getexif().get(ORIENTATION, 1)
    upright = stored[::-1] if orientation >= 5 else stored
    if size not in (upright, stored):
        return None
    if orientation == 1 and mode in ("RGB", "L"):
        _link(original, folder / original.name)
        return original.name
    exif = size == upright  # not so after `infer --no-exif`
    _write_png(folder / f"{original.name}.png", read_image(original, exif))
    return f"{original.name}.png"


def _link(original: Path, path: Path) -> None:
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.samefile(original):
            return
        path.unlink(missing_ok=True)
        try:
            path.symlink_to(original.resolve())
        except (OSError, NotImplementedError):  # a file system, or a Windows account, without links
            shutil.copyfile(original, path)


def _write_png(path: Path, image: Image.Image) -> None:
    with replacing(path) as file:
        image.save(file, "PNG", compress_level=3)
