"""Shared by the readers: finding files, detecting damage, matching files, reading depth."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ivggt_jax.evaluate.datasets.sequence import Sequence
from ivggt_jax.sources.folder import folder_images
from ivggt_jax.sources.frame import SourceError
from ivggt_jax.sources.image_file import read_counts, read_image

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"


def damage(path: Path) -> str | None:
    """What is wrong with a file, or None: missing, empty, not of the type in its name, or truncated.

    Reads only both ends of PNG and JPEG files, and all of a JPEG with an unusual end, so that checking thousands is quick.
    """
    if not path.is_file():
        return f"{path} is missing"
    with path.open("rb") as file:
        head = file.read(8)
        size = file.seek(0, 2)
        file.seek(max(0, size - 4096))
        tail = file.read()
    if not size:
        return f"{path} is empty"
    suffix = path.suffix.lower()
    if (suffix == ".png" and head != _PNG) or (suffix in (".jpg", ".jpeg") and head[:2] != _JPEG):
        return f"{path} is not a {suffix[1:].upper()} file"
    if suffix == ".png" and b"IEND" not in tail[-16:]:
        return f"{path} is cut off"
    if suffix in (".jpg", ".jpeg") and b"\xff\xd9" not in tail and not _is_read(path):
        return f"{path} is cut off"
    return None


def _is_read(path: Path) -> bool:
    """Whether a JPEG with an unusual end is complete, because a video or padding may follow it."""
    try:
        read_image(path)
    except SourceError:
        return False
    return True


def without_damage(sequence: Sequence, check: Callable[[Path], str | None] = damage) -> Sequence:
    """The sequence without frames whose image is damaged, and without damaged depths; both are added to its problems.

    `check` is applied to depth files. Raises ValueError when no frame is left.
    """
    image_problems = [damage(path) for path in sequence.images]
    depths, depth_problems = sequence.depths, []
    if depths is not None:
        found = [None if path is None else check(path) for path in depths]
        depth_problems = [problem for problem in found if problem]
        depths = tuple(None if problem else path for path, problem in zip(depths, found, strict=True))
    keep = np.array([problem is None for problem in image_problems], bool)
    problems = (*sequence.problems, *(problem for problem in image_problems if problem), *depth_problems)

    def kept(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[keep]

    return replace(
        sequence,
        images=tuple(path for path, whole in zip(sequence.images, keep, strict=True) if whole),
        depths=None if depths is None else tuple(path for path, whole in zip(depths, keep, strict=True) if whole),
        world_from_cam=kept(sequence.world_from_cam),
        intrinsics=kept(sequence.intrinsics),
        problems=problems,
    )


def images_in(folder: Path, pattern: str = "*") -> tuple[Path, ...]:
    """Image files of a folder whose names match, in natural order. Raises ValueError when there are none."""
    paths = tuple(path for path in folder_images(folder) if path.match(pattern))
    if not paths:
        raise ValueError(f"{folder}: no image is named {pattern}")
    return paths


def numbers(path: Path) -> tuple[int, ...]:
    """The numbers in a file's name, by which files of one frame are matched: img7.png and depth7.png have (7,)."""
    return tuple(int(number) for number in re.findall(r"\d+", path.stem))


def number(path: Path) -> int:
    """The last number in a file's name. Raises ValueError when there is none."""
    if not (found := numbers(path)):
        raise ValueError(f"{path} has no number in its name")
    return found[-1]


def matched(
    images: Iterable[Path], others: Iterable[Path], what: str
) -> tuple[tuple[Path | None, ...], tuple[str, ...]]:
    """For each image the other file with the same numbers in its name, or None; and a line for each that lacks its `what`.

    Hidden files are ignored, because macOS writes a ._frame1.png next to each frame1.png on foreign disks.
    """
    known = {numbers(path): path for path in others if not path.name.startswith(".")}
    found = {path: known.get(numbers(path)) for path in images}
    return tuple(found.values()), tuple(f"{path} has no {what}" for path, other in found.items() if other is None)


def read_png_depth(path: Path, units_per_metre: float, largest: float = np.inf) -> np.ndarray:
    """Depth in metres, float32 [H, W], from a picture of 16-bit grey; 0 where it is 0 or more than `largest` metres.

    Raises ValueError for a damaged picture, or one of another kind.
    """
    if (counts := read_counts(path)) is None:
        raise ValueError(f"{path} is another kind of picture; depth is stored in 16 bits of grey")
    depth = counts.astype(np.float32) / np.float32(units_per_metre)
    return np.where(depth > largest, np.float32(0), depth)


def intrinsics_of_640(focal: float, images: tuple[Path, ...]) -> np.ndarray:
    """float64 [S, 3, 3]: one camera for all frames, whose focal length is `focal` in pictures of 640×480; its centre is theirs.

    Pictures of another size are taken for the same, enlarged or reduced. Raises ValueError for another shape.
    """
    whole = next((path for path in images if damage(path) is None), None)
    width, height = (640, 480) if whole is None else read_image(whole).size
    if abs(3 * width - 4 * height) > 4:
        raise ValueError(f"{whole} has {width}×{height} pixels: the camera of this data set takes pictures of 4:3")
    scale = width / 640
    centre = (320.5 * scale - 0.5, 240.5 * scale - 0.5)
    matrix = np.array([[focal * scale, 0, centre[0]], [0, focal * scale, centre[1]], [0, 0, 1.0]])
    return np.tile(matrix, (len(images), 1, 1))
