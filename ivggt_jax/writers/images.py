"""`images/`: the picture files of COLMAP and nerfstudio models, and each one's camera.

An available original is placed there under its frame's name, including folders, and the camera is in its pixels. It is a hard
link to the same file (or a copy, on another disk), so that the export can be moved, sent or mounted elsewhere. Originals that
those tools would read differently from the model are converted to what the model read: pictures turned by EXIF, grey, deeper than
eight bits, in PQ or HLG, with an alpha channel, or in a rare format. Frames of a video have no picture file, so the video is
decoded again (`decoded`) to JPEG files of quality 95 with full-resolution colour. Frames of a live camera, and those whose
picture or video is gone or has changed, are written as the model saw them, with cameras in those pixels. Picture and camera
always belong together. The original of a calibrated camera is distorted, so its camera is the calibrated one with its lens.
"""

import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ivggt_jax.cameras.known import KnownCamera
from ivggt_jax.cameras.models import Camera
from ivggt_jax.disk.names import fitting_name
from ivggt_jax.options.export import ExportOptions
from ivggt_jax.sources.colour_code import high_range
from ivggt_jax.sources.config import SourceConfig
from ivggt_jax.sources.frame import Fit, Frame, SourceError
from ivggt_jax.sources.image_file import IMAGE_SUFFIXES, is_deep, pages, read_image
from ivggt_jax.writers.decoded import Decoded
from ivggt_jax.writers.files import naming, replacing
from ivggt_jax.writers.result import Result

logger = logging.getLogger(__name__)

ORIENTATION = 0x0112
"""EXIF orientation tag; 1 is upright, from 5 on width and height are swapped."""

COMMON = ("JPEG", "MPO", "PNG", "TIFF", "BMP", "WEBP", "PPM")
"""Formats that every program reads."""
QUALITY = 95
"""Quality of the JPEG files of a video's frames."""


@dataclass(frozen=True)
class View:
    """One frame's picture file and its camera."""

    name: str
    """Name of the file in `images/`, including folders."""
    fit: Fit
    """Transform from this picture to the model's input."""
    intrinsics: np.ndarray
    """float64 [3, 3] in the picture's pixels, counted from the corner of the first pixel, as in COLMAP."""
    cam_from_world: np.ndarray
    """float64 [3, 4]"""
    camera: KnownCamera | None = None
    """The calibration, if the picture is distorted; `fit` is then that of the undistorted picture of the same size."""
    model_size: tuple[int, int] = (0, 0)
    """Width and height of the model's input."""
    of_file: bool = True
    """Whether the frame is a picture file; otherwise it and all others of the run are from a video or a camera."""

    @property
    def lens(self) -> Camera:
        """The camera of the picture, with pixel centres at integers, as in every `Camera`."""
        if self.camera is not None:
            return self.camera.original
        k = self.intrinsics
        return Camera("pinhole", (k[0, 0], k[1, 1]), (k[0, 2] - 0.5, k[1, 2] - 0.5), (), self.size)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.fit.original_size

    def from_model(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [N, 2] of the picture, counted from its corner, for those of the model's input (centres at integers)."""
        if self.camera is not None:
            return self.camera.to_original(pixels, self.model_size[1], self.model_size[0]) + 0.5
        return (pixels + 0.5 - self.fit.offset) / self.fit.scale

    def to_model(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] of the model's input, counted from its corner, for those of the picture, counted from its corner."""
        if self.camera is not None:
            return self.camera.from_original(pixels - 0.5, self.model_size[1], self.model_size[0]) + 0.5
        return pixels * self.fit.scale + self.fit.offset


class Pictures:
    """Places the pictures of one export in a folder, each under a unique name."""

    def __init__(self, folder: Path, originals: Path | None, source: SourceConfig | None = None):
        """originals: folder to search for originals, instead of where they were read. source: the run's source."""
        self._folder, self._originals = folder, originals
        self._decoded = Decoded(source)
        self._exif = None if source is None else source.exif
        self._named = {} if originals is None else _by_stem(originals)
        self._files: dict[str, Path | None] = {}  # the original placed under each name; None: the model's input
        self._frames: dict[Path, str] = {}  # the frame that took each original
        self._missing = ""  # name of an original that is missing
        self._gone: list[Path] = []  # pictures that are not where they were read

    def place(self, result: Result) -> View:
        """Place the frame's picture in the folder and return its view.

        Raises ValueError when two frames would use one picture or one name, WriteError when the disk is full.
        """
        frame = result.frame
        original = self._original(frame)
        name = self._place_decoded(frame) if original is None else self._place_original(original, frame)
        fit, camera = frame.fit, frame.camera
        size = (frame.image.shape[1], frame.image.shape[0])
        if name is None:
            if frame.path and not _of_panorama(frame):
                self._gone.append(frame.path)
            self._missing = self._missing or _stem(safe_name(frame.name))
            name = self._take(self._own_name(frame), None, frame)
            fit, camera = Fit(size, (1.0, 1.0), (0.0, 0.0)), None
            _write_png(self._folder / name, Image.fromarray(frame.image))
        from_corner = fit.intrinsics_to_original(result.intrinsics)
        from_corner[:2, 2] += 0.5
        return View(name, fit, from_corner, result.cam_from_world, camera, size, frame.path is not None)

    def check(self) -> None:
        """Call at the end: warns of surprises. Raises ValueError when the user's folder has none of the pictures."""
        seen = [name for name, file in self._files.items() if file is None]
        if self._originals and seen:
            if len(seen) == len(self._files):
                raise ValueError(
                    f"{self._originals} has none of the pictures, or has them in another size: they would be called as "
                    f"their frames are, like {self._missing}.png, with any ending"
                )
            logger.warning(
                "%d of %d pictures are not in %s, or have another size there: they are as the model saw them",
                len(seen), len(self._files), self._originals,
            )  # fmt: skip
        elif self._gone:
            logger.warning(
                "%d of %d pictures are not where they were read, such as %s, or have another size now: they are as the model saw "
                "them; --images names their folder",
                len(self._gone), len(self._files), self._gone[0],
            )  # fmt: skip
        others = {path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*") if path.is_file()}
        if others := others - self._files.keys():
            logger.warning(
                "%s holds %d other files, such as %s: programs that take pictures by their order take the wrong ones",
                self._folder, len(others), min(others),
            )  # fmt: skip

    def _original(self, frame: Frame) -> Path | None:
        """The frame's original image, if available; none for panoramas, because no program uses a part of one."""
        if _of_panorama(frame):
            return None
        if self._originals is None:
            return frame.path if frame.path and frame.path.is_file() else None
        name = safe_name(frame.name)
        for called in (name, PurePosixPath(name.name)):
            if (exact := self._originals / called).is_file():
                return exact
            if len(alike := self._named.get(_stem(called), [])) > 1:
                raise ValueError(
                    f"{alike[0]} and {alike[1]} may both be frame {frame.name}: leave one in {self._originals}"
                )
            if alike:
                return alike[0]
        return None

    def _place_decoded(self, frame: Frame) -> str | None:
        """Write the picture of a video's frame and return its name; None if it is not available."""
        if frame.path is not None or self._originals is not None or _of_panorama(frame):
            return None
        picture = self._decoded.picture(frame)
        if picture is None:
            return None
        taken = self._take(PurePosixPath(f"{frame.index:06d}.jpg"), None, frame)
        with replacing(self._folder / taken) as file:
            picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
        return taken

    def _place_original(self, original: Path, frame: Frame) -> str | None:
        """Link or convert an original image and return its name; None if it does not have the frame's size."""
        size, name = frame.fit.original_size, safe_name(frame.name)
        if self._originals is not None:  # where it may have another suffix
            name = PurePosixPath(f"{_stem(name)}{original.suffix}")
        facts = _facts(original)
        if facts is None or size not in (facts.upright, facts.upright[::-1] if facts.turned else facts.upright):
            return None
        if facts.plain:
            taken = self._take(name, original, frame)
            _link(original, self._folder / taken)
            return taken
        try:
            picture = read_image(original, self._upright(size, facts), frame.levels)
        except SourceError:  # it has been damaged since
            return None
        taken = self._take(name.with_name(fitting_name("", name.name, ".png")), original, frame)
        _write_png(self._folder / taken, picture)
        return taken

    def _upright(self, size: tuple[int, int], facts: "_Facts") -> bool:
        """Whether the run turned the picture by its EXIF (not after `infer --no-exif`): by its size, else by the run's option."""
        size_tells = facts.turned and size[0] != size[1]
        return size == facts.upright if size_tells or self._exif is None else self._exif

    def _own_name(self, frame: Frame) -> PurePosixPath:
        """Name for a picture of the model's input."""
        if frame.path is None and self._originals is None:
            return PurePosixPath(f"{frame.index:06d}.png")
        # Next to originals it includes the frame's name, because an original may be named by the same number.
        name = safe_name(frame.name)
        return name.with_name(fitting_name(f"{frame.index:06d}.", name.name, ".png"))

    def _take(self, name: PurePosixPath, original: Path | None, frame: Frame) -> str:
        """The registered name for a frame's picture; a different one if the same original occurs again."""
        if original is not None:
            owner = self._frames.setdefault(original, frame.name)
            if owner != frame.name:
                raise ValueError(
                    f"frames {owner} and {frame.name} would both take the picture {original}: give --images the folder "
                    "that holds both of their folders"
                )
            if self._files.get(str(name)) == original:
                name = name.with_name(fitting_name(f"{frame.index:06d}.", name.stem, name.suffix))
        if str(name) in self._files:
            raise ValueError(f"two pictures would be called {name}, the second is of frame {frame.name}: rename one")
        self._files[str(name)] = original
        return str(name)


def lenses(views: list[View], options: ExportOptions) -> list[Camera]:
    """The camera of each view. For a video, and for any run with `shared_camera`, it is the median over all pictures of one size.

    Raises ValueError when `shared_camera` is set and the pictures differ in size or kind.
    """
    own = [view.lens for view in views]
    if options.shared_camera:
        _check_alike(views, own)
    elif options.own_cameras or any(view.of_file for view in views):
        return own
    shared: dict[Camera, Camera] = {}
    for size in {lens.size for lens in own}:
        alike = [lens for lens in own if lens.size == size and lens.kind == "pinhole"]
        shared |= dict.fromkeys(alike, _median(alike)) if alike else {}
    return [shared.get(lens, lens) for lens in own]


def _median(cameras: list[Camera]) -> Camera:
    """The median of several pinhole cameras of one size; reported if they differ."""
    fx, fy, cx, cy = np.median([(*lens.focal, *lens.centre) for lens in cameras], axis=0).tolist()
    focal = [lens.focal[0] for lens in cameras]
    if len(set(cameras)) > 1:
        logger.info(
            "one camera for %d pictures: focal length %.1f pixels, the median of %.1f to %.1f; --own-cameras keeps each frame's",
            len(cameras), fx, min(focal), max(focal),
        )  # fmt: skip
    return Camera("pinhole", (fx, fy), (cx, cy), (), cameras[0].size)


def _check_alike(views: list[View], own: list[Camera]) -> None:
    """Raises ValueError when pictures cannot share a camera."""
    if len(set(own)) == 1:
        return
    sizes = sorted({view.size for view in views})
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height}" for width, height in sizes[:4])
        raise ValueError(f"--shared-camera needs pictures of one size, but these have {len(sizes)}: {listed}")
    if any(lens.kind != "pinhole" for lens in own):
        raise ValueError("--shared-camera: some pictures are distorted originals, others are as the model saw them")


@dataclass(frozen=True)
class _Facts:
    """Properties of an image file, known before its pixels are read."""

    upright: tuple[int, int]
    """Width and height after applying its orientation."""
    turned: bool
    """Whether its sides are swapped in the file."""
    plain: bool
    """Whether every program reads it as the model did: upright 8-bit RGB of ordinary range, without an alpha channel."""


def _facts(path: Path) -> _Facts | None:
    """The properties; None if the file is not an image, or has several pictures, any of which may be the frame."""
    if pages(path) != [0]:
        return None
    try:
        with Image.open(path) as image:
            # First, because EXIF may follow the pixels, and reading it then loads them.
            unusual = is_deep(image) or high_range(image) is not None
            orientation = image.getexif().get(ORIENTATION, 1)
            turned = orientation >= 5
            known = image.format in COMMON
            plain = (
                known and orientation == 1 and image.mode == "RGB" and not unusual and not image.has_transparency_data
            )
            swapped = turned and image.format != "TIFF"  # of which Pillow states the upright size
            return _Facts(image.size[::-1] if swapped else image.size, turned, plain)
    except (OSError, ValueError, SyntaxError):
        return None


def _of_panorama(frame: Frame) -> bool:
    return frame.camera is not None and frame.camera.original.kind == "equirectangular"


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The picture files below a folder, by path without suffix."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            found.setdefault(_stem(PurePosixPath(path.relative_to(folder).as_posix())), []).append(path)
    return found


def _stem(name: PurePosixPath) -> str:
    """A name without its suffix, if that is a picture's; names of video frames have none."""
    return str(name.with_suffix("") if name.suffix.lower() in IMAGE_SUFFIXES else name)


def safe_name(name: str) -> PurePosixPath:
    """A frame's name as a path below the folder; bytes that are not text become %XX."""
    text = re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", name)
    parts = [part for part in PurePosixPath(text).parts if part not in ("/", "..")]
    return PurePosixPath(*(fitting_name("", part) for part in parts)) if parts else PurePosixPath("picture")


def _link(original: Path, path: Path) -> None:
    """Create a hard link to the file, or copy it if that is impossible."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_symlink() and path.samefile(original):
            return
        content = original.resolve()  # before a link with that name is removed
        path.unlink(missing_ok=True)
        try:
            os.link(content, path)
        except OSError:  # another disk, a file system without links, or another user's file
            with replacing(path) as file, content.open("rb") as content_file:
                shutil.copyfileobj(content_file, file)


def _write_png(path: Path, image: Image.Image) -> None:
    with replacing(path) as file:
        image.save(file, "PNG", compress_level=3)
