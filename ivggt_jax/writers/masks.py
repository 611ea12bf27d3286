"""`masks/NAME.png`: what counts in each frame, white, and what is masked or moves, black; `--masks` takes them.

They are called as COLMAP wants masks, by the frame's whole name, 0001.jpg.png, and 000000.png for a frame of a video. They have
the size of the original picture, of a calibrated camera the distorted one. What the model did not see of it is white.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ivggt_jax.disk.names import fitting_name
from ivggt_jax.sources.frame import Frame
from ivggt_jax.writers.files import ResumeError, naming, replacing
from ivggt_jax.writers.images import safe_name
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions, Writer


class MasksWriter(Writer):
    """Writes one PNG for every frame."""

    name = "masks"

    def __init__(self, out: Path, options: ExportOptions, frames: int, state: Mapping[str, np.ndarray]):
        self._folder = out / "masks"
        self._places: tuple[object, np.ndarray] = (None, np.zeros(0))
        with naming(self._folder):
            if frames == 0 and self._folder.is_dir():
                shutil.rmtree(self._folder)
            self._folder.mkdir(parents=True, exist_ok=True)
        if frames > (kept := sum(1 for _ in self._folder.rglob("*.png"))):
            raise ResumeError(self._folder, kept, frames)

    def write(self, result: Result) -> None:
        """Writes the frame's file. Raises ValueError for a view of a panorama, of which others may see the same pixels."""
        frame = result.frame
        if frame.camera is not None and frame.camera.original.kind == "equirectangular":
            raise ValueError(f"masks/ has one mask a picture, and {frame.name} is one of several views of a panorama")
        height, width, _ = frame.image.shape
        mask = np.ones((height, width), bool) if frame.mask is None else frame.mask
        around = np.pad(mask, 1, constant_values=True)
        name = safe_name(frame.name)
        path = self._folder / name.with_name(fitting_name("", name.name, ".png"))
        with replacing(path) as file:
            Image.fromarray(around.take(self._of(frame)).astype(np.uint8) * 255).save(file, "PNG", compress_level=3)

    def close(self) -> None:
        """Nothing is left to do: every file is complete."""

    def _of(self, frame: Frame) -> np.ndarray:
        """For pixels [h,w] of the original picture, where they lie in the model's image with a border of one pixel."""
        height, width, _ = frame.image.shape
        key = (frame.fit, frame.camera, height, width)
        if self._places[0] != key:
            self._places = key, _places(frame)
        return self._places[1]


def _places(frame: Frame) -> np.ndarray:
    height, width, _ = frame.image.shape
    across, down = frame.fit.original_size if frame.camera is None else frame.camera.original.size or (width, height)
    if frame.camera is None:
        (x, y), sides = frame.fit.offset, frame.fit.scale
        column, row = (
            np.floor((np.arange(across) + 0.5) * sides[0] + x),
            np.floor((np.arange(down) + 0.5) * sides[1] + y),
        )
        column, row = column[None], row[:, None]
    else:
        pixels = np.stack(np.meshgrid(np.arange(across), np.arange(down)), axis=-1).astype(np.float64)
        column, row = np.moveaxis(
            np.nan_to_num(np.round(frame.camera.from_original(pixels, height, width)), nan=-1), -1, 0
        )
    column, row = (np.clip(x + 1, 0, side + 1).astype(np.int64) for x, side in ((column, width), (row, height)))
    return np.asarray(row * (width + 2) + column)
