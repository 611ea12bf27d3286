"""Sensor depth: matching maps to frames, and converting them to metres at the pixels of the model's input."""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path, PurePath

import av
import numpy as np

from ivggt_jax.cameras.known import KnownCamera
from ivggt_jax.sources.fit import check_shape
from ivggt_jax.sources.folder import in_natural_order
from ivggt_jax.sources.frame import Fit, RawFrame, SourceError
from ivggt_jax.sources.image_file import read_counts
from ivggt_jax.sources.lists import LIST_SUFFIXES, listed_images, named_images
from ivggt_jax.sources.masks import names_of
from ivggt_jax.sources.times import ASSOCIATION_SECONDS, nearest_in_time

PICTURES = (".png", ".tif", ".tiff", ".pgm")
ARRAYS = (".npz", ".npy")
EXR = ".exr"
LARGEST = 1 << 28
"""Most values of a map; larger ones are rejected before memory is allocated."""
LOOKED_AT = 2000
"""Number of frames checked for depth before any is read."""


class Depths:
    """A folder of depth maps with their frames' names, or with times as names, or a list with times (TUM's depth.txt)."""

    def __init__(self, where: Path, scale: float, exif: bool = True):
        """scale: steps per metre for integers; exif: turn maps upright as pictures are. Raises SourceError when there is no map."""
        self._where, self._scale, self._exif = where, scale, exif
        if where.is_dir():
            every = (path for path in where.rglob("*") if path.is_file() and not path.name.startswith("."))
            paths = in_natural_order(every)
            files = (
                named_images([path for path in paths if path.suffix.lower() in (*PICTURES, *ARRAYS, EXR)], where)
                if paths
                else []
            )
            if not files:
                found = ", ".join(sorted({path.suffix for path in paths})[:6]) or "nothing"
                raise SourceError(f"{where}: holds no depth maps (.png with 16 bits, .npz, .npy, .exr), but {found}")
        elif where.is_file() and where.suffix.lower() in LIST_SUFFIXES:
            files = listed_images(where)
        else:
            what = "is neither a folder of depth maps nor a list of them (.txt, .csv)"
            raise SourceError(
                f"{where}: {what if where.exists() else 'there is no such folder of depth maps, nor a list'}"
            )
        self._named: dict[str, Path] = {}
        self._frames: dict[Path, str] = {}  # the frame that took each by its name
        for file in files:
            other = self._named.setdefault(PurePath(file.name).with_suffix("").as_posix(), file.path)
            if other != file.path:
                raise SourceError(f"{other} and {file.path} are depth maps of the same frame: remove one")
        timed = sorted((file.timestamp, file.path) for file in files if file.timestamp is not None)
        self._times = np.array([time for time, _ in timed], np.float64)
        self._timed = [path for _, path in timed]

    def path_of(self, raw: RawFrame) -> Path | None:
        """The map of a frame: the one with its name, else one within 0.02 s; None if there is none.

        Raises SourceError when the map with its name is another frame's, too.
        """
        whole = PurePath(raw.name if raw.path is None else os.path.abspath(raw.path))
        named = next((self._named[name] for name in names_of(whole) if name in self._named), None)
        if named is not None and (other := self._frames.setdefault(named, f"{whole}")) != f"{whole}":
            raise SourceError(
                f"{whole} would share its depth map {named} with {other}: put maps into folders as the frames are, like "
                f"{self._where / whole.parent.name / named.name}"
            )
        if named is not None or raw.timestamp is None or not self._timed:
            return named
        (nearest,) = nearest_in_time(np.array([raw.timestamp]), self._times)
        return self._timed[nearest] if nearest >= 0 else None

    def check(self, raws: Iterable[RawFrame]) -> None:
        """Raises SourceError when none of the first frames has a map."""
        first = list(islice(raws, LOOKED_AT))
        if first and all(self.path_of(raw) is None for raw in first):
            times = [raw.timestamp for raw in first if raw.timestamp is not None]
            own = f"from {times[0]:.3f} to {times[-1]:.3f}" if times else "none"
            their = f"from {self._times[0]:.3f} to {self._times[-1]:.3f}" if len(self._times) else "none"
            raise SourceError(
                f"{self._where}: no depth map belongs to a frame: none is called as one, like {first[0].name}, nor within "
                f"{ASSOCIATION_SECONDS} s of one (frames' times: {own}, depth's: {their})"
            )

    def read(self, path: Path) -> np.ndarray:
        """A map float32 [h,w] in metres, NaN where nothing was measured. Raises SourceError when the file is not a map."""
        suffix = path.suffix.lower()
        values = _array(path) if suffix in ARRAYS else _exr(path) if suffix == EXR else read_counts(path, self._exif)
        if values is None:
            raise SourceError(f"{path}: is no depth map: 16 bits of grey are needed")
        return in_metres(values, self._scale)


def in_metres(values: np.ndarray, scale: float) -> np.ndarray:
    """Metres, float32, from a map's floats or integers (`scale` steps per metre); NaN where nothing was measured."""
    whole = not np.issubdtype(values.dtype, np.floating)
    with np.errstate(over="ignore"):  # values beyond float32 are not distances
        metres = values.astype(np.float32) / np.float32(scale if whole else 1)
    return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(np.nan))


def fit_depth(depth: np.ndarray, fit: Fit, height: int, width: int, camera: KnownCamera | None) -> np.ndarray:
    """Resample a map [h,w], registered to the picture, at the pixels of the model's input: nearest measured value, NaN outside.

    Raises SourceError when its shape differs from the picture's.
    """
    original = camera.original.size if camera is not None else fit.original_size
    assert original is not None
    own = (depth.shape[1], depth.shape[0])
    check_shape(own, original, "depth map")
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    undone = (pixels + 0.5 - fit.offset) / fit.scale
    corner = undone if camera is None else camera.to_original(pixels, height, width) + 0.5
    place = np.floor(corner * own / np.asarray(original))
    inside = ((place >= 0) & (place < own)).all(axis=-1)
    column, row = np.moveaxis(np.where(inside[..., None], place, 0).astype(int), -1, 0)
    return np.where(inside, depth[row, column], np.float32(np.nan))


def _array(path: Path) -> np.ndarray:
    """The array of a .npy or .npz file; in the latter the one named depth, or the only one."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                values = loaded
            else:
                with loaded:
                    name = "depth" if "depth" in loaded.files else loaded.files[0] if len(loaded.files) == 1 else None
                    if name is None or max(entry.file_size for entry in loaded.zip.infolist()) > 8 * LARGEST:
                        raise ValueError(f"it holds {', '.join(loaded.files) or 'nothing'}, and no array called depth")
                    values = loaded[name]
    except Exception as error:  # a damaged archive raises almost anything: zlib.error, RuntimeError, MemoryError …
        raise SourceError(f"{path}: is no depth map ({' '.join(str(error).split())})") from None
    if values.ndim != 2 or values.size > LARGEST or values.dtype.kind not in "iuf":
        raise SourceError(f"{path}: is no depth map, but {values.dtype} {list(values.shape)}")
    return values


def _exr(path: Path) -> np.ndarray:
    """The floats of an OpenEXR file, read by FFmpeg, which knows the channel Y, and R, G and B: these must be equal."""
    try:
        options = {"protocol_whitelist": "file", "format_whitelist": "exr_pipe"}
        with av.open(str(path.absolute()), options=options) as container:  # relative, a colon would end a protocol
            container.streams.video[0].codec_context.options = {"max_pixels": str(LARGEST)}
            frame = next(container.decode(video=0))
            kind = np.float32 if "f32" in frame.format.name else np.float16
            planes = [
                np.frombuffer(bytes(plane), kind).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes
            ]
            values = planes[0].copy()
            if any(not np.array_equal(values, plane, equal_nan=True) for plane in planes[1:3]):
                raise ValueError("its colours differ")
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise SourceError(
            f"{path}: is no depth map that can be read ({' '.join(str(error).split())}): an EXR file needs floats in the "
            "channel Y, or the same in R, G and B"
        ) from None
    return values
