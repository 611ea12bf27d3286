"""The user's masks: which file belongs to which frame."""

import os
from pathlib import Path, PurePath

from PIL import Image

from ivggt_jax.sources.frame import RawFrame, SourceError
from ivggt_jax.sources.image_file import IMAGE_SUFFIXES, read_mask


class Masks:
    """A folder of masks with sub-folders: for the frame …/cam0/0.jpg, cam0/0.png or cam0/0.jpg.png, else 0.png.

    Video frames use 000000.png and so on.
    """

    def __init__(self, folder: Path, exif: bool):
        """Raises SourceError when there is no such folder, or two masks in it are for the same frame."""
        if not folder.is_dir():
            raise SourceError(f"{folder}: there is no such folder of masks")
        self._folder, self._exif = folder, exif
        self._masks: dict[str, Path] = {}  # by path without suffix
        self._frames: dict[Path, str] = {}  # the frame that took each
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir():
                other = self._masks.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
                if other != path:
                    raise SourceError(f"{other} and {path} are masks of the same frame: remove one")
        if not self._masks:
            raise SourceError(f"{folder}: no masks are in this folder")

    def of(self, raw: RawFrame) -> Image.Image:
        """The mask of a frame, mode L, 0 or 255.

        Raises SourceError when there is none, it cannot be read, or another frame uses it too.
        """
        whole = PurePath(raw.name if raw.path is None else os.path.abspath(raw.path))
        found = next((self._masks[name] for name in names_of(whole) if name in self._masks), None)
        if found is None:
            wanted = self._folder / PurePath(raw.name).with_suffix(".png")
            raise SourceError(f"has no mask {wanted}; where all counts, make it white")
        frame = str(whole)
        if (other := self._frames.setdefault(found, frame)) != frame:
            raise SourceError(
                f"would share its mask {found} with {other}: put masks into folders as the frames are, like "
                f"{self._folder / whole.parent.name / whole.with_suffix('.png').name}"
            )
        return read_mask(found, self._exif)


def names_of(path: PurePath) -> list[str]:
    """Possible names of a frame's mask or depth map, without its own suffix; those with the most folders first."""
    parts = [part for part in path.parts if part != path.anchor]
    tails = ["/".join(parts[start:]) for start in range(len(parts))]
    return [name for tail in tails for name in (tail, tail.removesuffix(path.suffix))]
