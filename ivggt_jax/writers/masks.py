"""`masks/NAME.png`: a mask for each frame, white where pixels count, black where they are masked or move; `--masks` reads them.

They are named as COLMAP expects masks, by the frame's full name, 0001.jpg.png, and 000000.png for a frame of a video. (There
COLMAP would look for 000000.jpg.png, after the picture that is exported for it.) They have the size of the original picture, for a
calibrated camera the distorted one. Parts of it that the model did not see are white. A picture that occurs twice has the mask of
its last frame.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ivggt_jax.cameras.known import KnownCamera
from ivggt_jax.disk.names import fitting_name
from ivggt_jax.sources.frame import Fit
from ivggt_jax.writers.files import ResumeError, naming, replacing
from ivggt_jax.writers.images import safe_name
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer


class MasksWriter(Writer):
    """Writes one PNG for every frame."""

    name = "masks"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._folder = out / "masks"
        self._originals = OriginalMasks()
        with naming(self._folder):
            if frames == 0 and self._folder.is_dir():
                shutil.rmtree(self._folder)
            self._folder.mkdir(parents=True, exist_ok=True)
        wanted, self._files = int(state.get("files", frames)), sum(1 for _ in self._folder.rglob("*.png"))
        if self._files < wanted:
            raise ResumeError(self._folder, self._files, wanted)

    @classmethod
    def check(cls, first: Result) -> None:
        """Raises ValueError for a view of a panorama, because other views may see the same pixels."""
        frame = first.frame
        if frame.camera is not None and frame.camera.original.kind == "equirectangular":
            raise ValueError(f"masks/ has one mask a picture, and {frame.name} is one of several views of a panorama")

    def write(self, result: Result) -> None:
        """Write the frame's file. Raises ValueError for a view of a panorama."""
        self.check(result)
        frame = result.frame
        mask = np.ones(frame.image.shape[:2], bool) if frame.mask is None else frame.mask
        name = safe_name(frame.name)
        path = self._folder / name.with_name(fitting_name("", name.name, ".png"))
        self._files += not path.exists()
        write_mask(path, self._originals.of(mask, frame.fit, frame.camera))

    def state(self) -> dict[str, np.ndarray]:
        """The number of files."""
        return {"files": np.array(self._files)}

    def close(self) -> None:
        """Nothing to do: every file is complete."""


class OriginalMasks:
    """Converts masks of the model's input to those of the original pictures; coordinates are cached for similar pictures."""

    def __init__(self) -> None:
        self._places: tuple[object, np.ndarray] = (None, np.zeros(0))

    def of(self, mask: np.ndarray, fit: Fit, camera: KnownCamera | None) -> np.ndarray:
        """The mask [H, W] for the picture's pixels, bool [h, w]; True where the model did not see them."""
        height, width = mask.shape
        key = (fit, camera, height, width)
        if self._places[0] != key:
            self._places = key, _places(fit, camera, height, width)
        return np.pad(mask, 1, constant_values=True).take(self._places[1])


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask [h, w] as a PNG, with True as white. Raises WriteError when the disk is full."""
    with replacing(path) as file:
        Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG", compress_level=3)


def _places(fit: Fit, camera: KnownCamera | None, height: int, width: int) -> np.ndarray:
    """For pixels [h,w] of the original picture, their places in the model's image with a border of one pixel."""
    across, down = fit.original_size if camera is None else camera.original.size or (width, height)
    if camera is None:
        (x, y), sides = fit.offset, fit.scale
        column, row = (
            np.floor((np.arange(across) + 0.5) * sides[0] + x),
            np.floor((np.arange(down) + 0.5) * sides[1] + y),
        )
        column, row = column[None], row[:, None]
    else:
        pixels = np.stack(np.meshgrid(np.arange(across), np.arange(down)), axis=-1).astype(np.float64)
        column, row = np.moveaxis(np.nan_to_num(np.round(camera.from_original(pixels, height, width)), nan=-1), -1, 0)
    column, row = (np.clip(x + 1, 0, side + 1).astype(np.int64) for x, side in ((column, width), (row, height)))
    return np.asarray(row * (width + 2) + column)
