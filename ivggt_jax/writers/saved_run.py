"""A run's saved frames, read back for exports that need the whole run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from ivggt_jax.mapping.map_files import SUBMAPS_FILE, Growth, read_growth
from ivggt_jax.sources.config import SourceConfig
from ivggt_jax.sources.frame import Fit, Frame
from ivggt_jax.trajectories.alignment import inverse
from ivggt_jax.transforms import Similarity
from ivggt_jax.writers.adjustment import Tracks, rows_by
from ivggt_jax.writers.decoded import recorded_source
from ivggt_jax.writers.files import numbered
from ivggt_jax.writers.fusion import VoxelGrid
from ivggt_jax.writers.npz import DENSE, OPTIONAL, camera_of
from ivggt_jax.writers.ply import fuse
from ivggt_jax.writers.result import Result
from ivggt_jax.writers.writer import ExportOptions

LARGEST = 4 << 30
"""Largest uncompressed size of one frame in bytes."""

NEARLY = 1e-2
"""Tolerance for a rotation's rows to be orthonormal, since they were computed in float32."""

Move = Callable[[int, np.ndarray], Similarity]
"""(frame number from 0, its camera [3,4] in the world) → the frame's move in the world."""

Change = Callable[[int, Result], Result]
"""(frame number, result) → the result in another place in the world, or with another camera."""


class SavedRun(Sequence[Result]):
    """The results in `OUT/frames`, in order, each read on access, moved, and not kept. All are in one unit, the run's last."""

    tracks: Tracks | None = None
    """Points known better than from depth alone, if any."""

    def __init__(self, out: Path, changes: tuple[Change, ...] | None = None, source: SourceConfig | None = None):
        """changes: applied to each result, one after the other; by default that to the run's last unit, if there are others.
        source: of the run; by default from `run.json`.

        Raises FileNotFoundError when there are no saved frames, ValueError when `submaps.txt` is damaged.
        """
        self.out = out
        self.source = source or recorded_source(out)
        self._changes = to_one_unit(read_growth(out / SUBMAPS_FILE)) if changes is None else changes
        self._paths = numbered(out / "frames", ".npz")
        self._cloud: tuple[ExportOptions, VoxelGrid] | None = None
        if not self._paths:
            raise FileNotFoundError(
                f"{out / 'frames'} holds no saved frames (*.npz): run ivggt with --export npz first"
            )

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, position: int) -> Result: ...
    @overload
    def __getitem__(self, position: slice) -> list[Result]: ...
    def __getitem__(self, position: int | slice) -> Result | list[Result]:
        if isinstance(position, slice):
            return [self._read(number) for number in range(*position.indices(len(self)))]
        return self._read(range(len(self))[position])

    def moved(self, move: Move) -> "SavedRun":
        """The same frames with a further move, and their tracks moved likewise."""
        run = self.changed(lambda number, result: moved(result, number, move))
        if self.tracks is not None:
            positions = self.tracks.positions.copy()
            for number, own in enumerate(rows_by(self.tracks.origins, len(self))):
                if len(own):
                    positions[own] = move(number, self.camera(number).world_from_cam).points(positions[own])
            run.tracks = replace(self.tracks, positions=positions)
        return run

    def changed(self, change: Change) -> "SavedRun":
        """The same frames with a further change, without tracks."""
        return SavedRun(self.out, (*self._changes, change), self.source)

    def camera(self, position: int) -> Result:
        """The result with its image and cameras, without the maps, which are slow to read."""
        return self._read(position, maps=False)

    def cameras(self) -> Iterator[Result]:
        """Every frame's `camera`, in order."""
        return (self.camera(position) for position in range(len(self)))

    def cloud(self, options: ExportOptions) -> VoxelGrid:
        """The fused cloud of all frames, kept for the next export with the same options.

        Raises ValueError when no pixel becomes a point.
        """
        if self._cloud is None or self._cloud[0] != options:
            self._cloud = options, fuse(self, options)
        return self._cloud[1]

    def _read(self, number: int, maps: bool = True) -> Result:
        result = read_result(self._paths[number], maps)
        for change in self._changes:
            result = change(number, result)
        return result


def to_one_unit(growth: Growth | None) -> tuple[Change, ...]:
    """The change of saved frames to a run's last unit; none if its unit has always been the same."""
    if growth is None:
        return ()
    return (lambda number, result: moved(result, number, lambda frame, _: growth.move(frame)),)


def moved(result: Result, number: int, move: Move) -> Result:
    """The result of a frame in another world and unit."""
    to_world = move(number, result.world_from_cam)
    depth, points = result.depth, result.points
    return replace(
        result,
        cam_from_world=inverse(to_world.poses(result.world_from_cam)),
        depth=None if depth is None else (to_world.scale * depth).astype(np.float32),
        points=None if points is None else to_world.points(points).astype(np.float32),
    )


def read_result(path: Path, maps: bool = True) -> Result:
    """Read one saved frame; with maps False, without depth, points and confidences.

    Maps are returned as float32 whatever their saved type. Raises ValueError, naming the file, when it is damaged, OSError when
    it cannot be opened.
    """
    # Opened here, because NumPy does not close a damaged file.
    with path.open("rb") as file:
        return _read_result(path, file, maps)


def _read_result(path: Path, file: BinaryIO, maps: bool) -> Result:
    try:
        with np.load(file, allow_pickle=False) as saved:
            if sum(entry.file_size for entry in saved.zip.infolist()) > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST >> 30} GiB")
            arrays = {
                name: saved[name].astype(np.float32) if name in OPTIONAL else saved[name]
                for name in saved.files
                if maps or name not in DENSE
            }
        return _result(arrays)
    except Exception as error:  # zipfile and NumPy raise almost anything on a damaged file
        raise ValueError(f"{path} is not a frame that a run saved, or is damaged: {error}") from error


def _result(arrays: dict[str, np.ndarray]) -> Result:
    """The result from one file's arrays. Raises ValueError or KeyError when they are not as written by `npz`."""
    height, width, _ = arrays["image"].shape
    shapes = {
        **{
            "image": (height, width, 3),
            **dict.fromkeys(("mask", "moving"), (height, width)),
            "cam_from_world": (3, 4),
            "intrinsics": (3, 3),
        },
        **dict.fromkeys(DENSE, (height, width)),
        **{"points": (height, width, 3), "original_size": (2,), "scale": (2,), "offset": (2,), "levels": (2,)},
    }
    types = {"image": np.uint8, "mask": np.bool_, "moving": np.bool_, "original_size": np.int64}
    for name in arrays.keys() & shapes.keys():
        kind = np.dtype(types.get(name, np.float32 if name in DENSE else np.float64))
        if (arrays[name].shape, arrays[name].dtype) != (shapes[name], kind):
            raise ValueError(
                f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}, not {kind} {list(shapes[name])}"
            )
    size = arrays["original_size"]
    if not _is_camera(arrays) or not (size > 0).all():
        raise ValueError("its camera or its size is none")
    timestamp, index = float(arrays["timestamp"]), int(arrays["index"])
    if index < 0:
        raise ValueError(f"its number is {index}")
    frame = Frame(
        image=arrays["image"],
        index=index,
        timestamp=None if np.isnan(timestamp) else timestamp,
        name=str(arrays["name"]),
        fit=Fit(tuple(size.tolist()), tuple(arrays["scale"].tolist()), tuple(arrays["offset"].tolist())),
        mask=arrays.get("mask"),
        path=Path(str(arrays["path"])) if "path" in arrays else None,
        levels=tuple(arrays["levels"].tolist()) if "levels" in arrays else None,
        camera=camera_of(arrays),
    )
    fields: dict[str, Any] = {name: arrays[name] for name in (*OPTIONAL, "moving") if name in arrays}
    return Result(frame=frame, cam_from_world=arrays["cam_from_world"], intrinsics=arrays["intrinsics"], **fields)


def _is_camera(arrays: dict[str, np.ndarray]) -> bool:
    """Whether a frame's numbers are those of a camera: a rotation and a translation, focal lengths, a scale."""
    pose, k, scale, offset = (arrays[name] for name in ("cam_from_world", "intrinsics", "scale", "offset"))
    if not all(np.isfinite(x).all() for x in (pose, k, scale, offset)):
        return False
    turn = pose[:, :3]
    is_turn = np.abs(turn @ turn.T - np.eye(3)).max() < NEARLY and np.linalg.det(turn) > 0
    return bool(is_turn and (k.diagonal()[:2] != 0).all() and (scale > 0).all())
