"""The places of a stream, stored so that it notices when it returns to one.

A place is the beginning of a submap: a descriptor, which is the camera token of its first frame, and the corners of three frames
(`features`). Descriptors are held in memory; everything else is in `places.bin`, an append-only file of equal records, whose size
does not depend on the images'. Of a long run every second place is kept, then every fourth, and so on: at most `most` at a time,
spread evenly over the run, and the file grows by most / 2 records whenever the run doubles.
"""

import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ivggt_jax.mapping.config import PLACE_FRAMES
from ivggt_jax.mapping.features import MOST as CORNERS
from ivggt_jax.mapping.features import SIDE

MOST = 512
"""Most places that are kept; with submaps of 32 frames, all of the first 16,384 frames."""


@dataclass(frozen=True, eq=False)
class Place:
    """The beginning of a submap, seen by `PLACE_FRAMES` frames; N and D are as in `features.Features`."""

    submap: int
    part: int
    """The part of the map in which the submap lies."""
    descriptor: np.ndarray
    """float16 [C]: the camera token of the first frame."""
    submap_from_cam: np.ndarray
    """float64 [PLACE_FRAMES,3,4]: cameras in the submap's own frame and unit."""
    focal: np.ndarray
    """float64 []: predicted focal length along x, in image widths."""
    pixels: np.ndarray
    """float32 [PLACE_FRAMES,N,2]: corners, as in `features.Features`, but v is times fx/fy, so that one focal length is enough."""
    depth: np.ndarray
    """float32 [PLACE_FRAMES,N] in the submap's unit, 0 where there is no corner."""
    patches: np.ndarray
    """int8 [PLACE_FRAMES,N,D]"""


def place_type(channels: int) -> np.dtype[Any]:
    """The record of a place in the file, for descriptors of `channels` channels."""
    return np.dtype(
        [
            ("number", "<i8"),
            ("submap", "<i8"),
            ("part", "<i8"),
            ("focal", "<f8"),
            ("submap_from_cam", "<f8", (PLACE_FRAMES, 3, 4)),
            ("descriptor", "<f2", (channels,)),
            ("pixels", "<f4", (PLACE_FRAMES, CORNERS, 2)),
            ("depth", "<f4", (PLACE_FRAMES, CORNERS)),
            ("patches", "i1", (PLACE_FRAMES, CORNERS, SIDE**2)),
        ]
    )


class _Kept(NamedTuple):
    """A stored place."""

    record: int
    """Its record's index in the file."""
    submap: int
    part: int
    descriptor: np.ndarray
    focal: float


class Places:
    """The places of one stream, in the order in which it saw them.

    Opening a file at `path` keeps what belongs to the first `count` places and drops the rest, so that a resumed run continues
    with the same bytes. Without a path the places are in a temporary file that ends with the process. Raises ValueError when the
    file holds other places, OSError when the disk is full.
    """

    def __init__(self, path: Path | None, record: np.dtype[Any], count: int = 0, most: int = MOST):
        if most < 2:
            raise ValueError(f"at least 2 places must be kept, not {most}")
        self._record, self._most = record, most
        self._file = _open(path)
        self._kept: dict[int, _Kept] = {}
        self._records = 0
        self.count = 0
        """Places seen so far."""
        try:
            for number in range(count):
                self._remember(self._recalled(number) if self._keeps(number) else None)
            self._file.truncate(self._records * record.itemsize)
        except Exception:
            self._file.close()
            raise

    @property
    def submaps(self) -> np.ndarray:
        """int64 [N]: submaps of the stored places, in order."""
        return np.array([kept.submap for kept in self._kept.values()], np.int64)

    @property
    def parts(self) -> np.ndarray:
        """int64 [N]: parts of the map in which the stored places lie."""
        return np.array([kept.part for kept in self._kept.values()], np.int64)

    @property
    def descriptors(self) -> np.ndarray:
        """float16 [N,C]: descriptors of the stored places."""
        none = np.zeros((0, *self._record["descriptor"].shape), np.float16)
        return np.stack([kept.descriptor for kept in self._kept.values()]) if self._kept else none

    @property
    def focals(self) -> np.ndarray:
        """float64 [N]: focal lengths of the stored places."""
        return np.array([kept.focal for kept in self._kept.values()], np.float64)

    def add(self, place: Place) -> None:
        """Store a place, and drop some if there are too many.

        Raises ValueError for arrays of other shapes or a submap that does not come after the last one, OSError when the disk is
        full.
        """
        if self._kept and place.submap <= (last := next(reversed(self._kept.values())).submap):
            raise ValueError(f"the place of submap {place.submap} comes after that of submap {last}")
        row = np.zeros((), self._record)
        row["number"] = self.count
        for field in fields(place):
            value, wanted = np.asarray(getattr(place, field.name)), self._record[field.name].shape
            if value.shape != wanted:
                raise ValueError(f"a place's {field.name} must be {list(wanted)} here, not {list(value.shape)}")
            row[field.name] = value
        if not self._keeps(self.count):
            self._remember(None)
            return
        self._file.seek(self._records * self._record.itemsize)
        self._file.write(row.tobytes())
        self._file.flush()
        self._remember(row)

    def read(self, submap: int) -> Place:
        """The place of a submap. Raises KeyError when it is not stored."""
        for kept in self._kept.values():
            if kept.submap == submap:
                row = self._row(kept.record)
                assert row is not None  # the record was written or read before
                return Place(submap, kept.part, *(row[field.name] for field in fields(Place)[2:]))
        raise KeyError(submap)

    def report(self) -> dict[str, int]:
        """The entry in `run.json`: places seen and kept, and that every n-th one is kept."""
        return {"seen": self.count, "kept": len(self._kept), "every": self._every(self.count)}

    def close(self) -> None:
        """Close the file, which is complete as it is."""
        self._file.close()

    def _every(self, count: int) -> int:
        """n if every n-th of `count` places is kept: 1, 2, 4, …."""
        every = 1
        while -(-count // every) > self._most:
            every *= 2
        return every

    def _keeps(self, number: int) -> bool:
        """Whether the place with this number is stored when it comes."""
        return number % self._every(number + 1) == 0

    def _remember(self, row: np.ndarray | None) -> None:
        """Count the next place. If it is one to keep, `row` is its record, the last in the file."""
        if row is not None:
            descriptor, focal = np.array(row["descriptor"]), float(row["focal"])
            self._kept[self.count] = _Kept(self._records, int(row["submap"]), int(row["part"]), descriptor, focal)
            self._records += 1
        self.count += 1
        every = self._every(self.count)
        self._kept = {number: kept for number, kept in self._kept.items() if number % every == 0}

    def _recalled(self, number: int) -> np.ndarray:
        row = self._row(self._records)
        if row is None or row["number"] != number:
            raise ValueError(
                f"{self._file.name} does not hold place {number} of the run to resume: it was changed or removed since; "
                "start again with --overwrite"
            )
        return row

    def _row(self, record: int) -> np.ndarray | None:
        """A record of the file; None past the end of the file."""
        size = self._record.itemsize
        self._file.seek(record * size)
        data = self._file.read(size)
        return np.frombuffer(data, self._record)[0] if len(data) == size else None


def _open(path: Path | None) -> IO[bytes]:
    if path is None:
        return tempfile.TemporaryFile()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path.open("r+b")
