"""The three benchmarks: run a model on the sequences of a data set, and compare with the truth as in the published protocols."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from ivggt_jax.config import HeadName, ModelConfig
from ivggt_jax.evaluate import depth_alignment, reconstruction
from ivggt_jax.evaluate.datasets import PLAIN, ReadOptions, Sequence, Skipped, open_dataset
from ivggt_jax.evaluate.datasets.pcd import read_pcd
from ivggt_jax.evaluate.depth import PROTOCOLS, DepthEvaluation, DepthProtocol, error_map, evaluate_depth
from ivggt_jax.evaluate.long3d import PUBLISHED_SCALE_FACTOR, VOXEL, evaluate_long3d
from ivggt_jax.evaluate.options import MemoryOptions, ModelOptions, stream_settings
from ivggt_jax.evaluate.pairing import centre_crop, depth_pair, true_points
from ivggt_jax.evaluate.plots import depth_maps
from ivggt_jax.evaluate.predict import Mode, Predicted, predict
from ivggt_jax.evaluate.report import (
    SequenceReport,
    Settings,
    report_depth,
    report_reconstruction,
    report_trajectory,
    summary_table,
    write_report,
)
from ivggt_jax.evaluate.trajectory import evaluate_trajectory
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.runs.command import say
from ivggt_jax.trajectories.alignment import Alignment, inverse, relative_to_first
from ivggt_jax.writers.fusion import VoxelGrid

CROP = 224
"""Side of the centre crop whose points the published reconstruction protocol compares."""
MAPS = 3
"""Number of frames of a sequence whose depth the report shows."""
LONG3D_CUBES = 8_000_000
"""Most points gathered of a Long3D scene; a larger cloud is averaged in larger cubes."""

NOTHING = np.zeros((0, 3)), np.zeros((0, 3))
"""Prediction and truth of a frame without ground truth: it keeps its place in the curves but counts for nothing."""

TRUTH = {"world_from_cam": "true poses", "depths": "true depth", "intrinsics": "camera matrices", "cloud": "scan"}
"""What a benchmark may need of a sequence, in words."""

Evaluate = Callable[[Sequence, Predicted], SequenceReport]


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """The sequences, and how they are fed to the model."""

    dataset: Literal["7scenes", "nrgbd", "sintel", "bonn", "kitti", "kitti_odometry", "tum", "scannet", "long3d"]
    root: Path
    """The data set's folder."""
    only: tuple[str, ...] = ()
    """Names of sequences to use; all by default."""
    out: Path | None = None
    """Folder for the report; by default ivggt_out/ plus the names of benchmark and data set."""
    stride: int = 1
    """Take every n-th frame; on NRGBD at least two remain. Published: 2 for reconstruction on 7-Scenes, 500 on NRGBD, else 1."""
    max_frames: int | None = None
    """Take at most this many frames."""
    size: int | None = None
    """Width of the model's input in pixels; by default the model's own."""
    mode: Mode = "stream"
    """Frame by frame with a bounded memory, or all frames at once."""
    read: Annotated[ReadOptions, tyro.conf.arg(name="")] = PLAIN
    model: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    memory: Annotated[MemoryOptions, tyro.conf.arg(name="")] = field(default_factory=MemoryOptions)
    mapping: Annotated[SubmapOptions, tyro.conf.arg(name="")] = field(default_factory=SubmapOptions)

    def __post_init__(self) -> None:
        for name in ("stride", "max_frames"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.mode != "stream" and (given := self._of_streams()):
            raise ValueError(f"{', '.join(given)} apply only to streams: leave them out of --mode {self.mode}")

    def _of_streams(self) -> list[str]:
        """The given options that only a stream has."""
        every = {
            "--policy": self.memory.policy != MemoryOptions().policy,
            "--cache.*": self.memory.cache != MemoryOptions().cache,
            "--submaps": self.mapping.submaps not in ("auto", "off"),
            "--no-refine": not self.mapping.refine,
            "--loops": self.mapping.loops,
        }
        return [name for name, given in every.items() if given]

    def stride_for(self, frames: int) -> int:
        """The stride in a sequence of so many frames: on NRGBD at most half of them, as published."""
        return min(self.stride, max(1, frames // 2)) if self.dataset == "nrgbd" else self.stride

    def settings(self, model: ModelConfig, stride: int, frames: int) -> Settings:
        """What a report says of a sequence of so many frames besides its results."""
        cache = self.memory.cache_for(frames)
        memory = stream_settings(cache, self.mapping.choose(model, frames, frames_per_step=cache.frames_per_step))
        read = {option.replace("_", " "): value for option, value in vars(self.read).items() if value}
        return {
            **self.model.settings,
            "mode": self.mode,
            **(memory | {"loops": self.mapping.loops} if self.mode == "stream" else {}),
            "stride": stride,
            "frames": frames,
            "size": self.size or model.image_size,
            **read,
        }


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Options of `evaluate pose`."""

    data: Annotated[DatasetOptions, tyro.conf.arg(name="")]
    alignment: Alignment = "sim3"
    """Alignment before errors are measured."""


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Options of `evaluate depth`."""

    data: Annotated[DatasetOptions, tyro.conf.arg(name="")]
    alignment: depth_alignment.Alignment = "scale"
    """Alignment before errors are measured, once for each sequence."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Options of `evaluate reconstruction`."""

    data: Annotated[DatasetOptions, tyro.conf.arg(name="")]
    points_from: Literal["head", "depth"] = "head"
    """Take points from the point head, or compute them from depth and camera."""
    alignment: Literal["published", "fixed"] = "published"
    """As published, which depends on the source of the points, or a least-squares similarity only."""
    thresholds: tuple[float, ...] = (0.05,)
    """Distance thresholds for precision, recall and F-score, in metres."""
    scale_factor: float = PUBLISHED_SCALE_FACTOR
    """Long3D: factor on the ratio of the clouds' spreads, chosen by hand as published; 1.0: that ratio alone."""
    cloud_stride: int = 10
    """Long3D: every n-th frame adds to the cloud."""

    def __post_init__(self) -> None:
        if self.cloud_stride < 1:
            raise ValueError(f"cloud_stride must be at least 1, not {self.cloud_stride}")
        scan = self.data.dataset == "long3d"
        if scan and self.alignment != "published":
            raise ValueError("--alignment applies only to data sets with true poses: leave it out of --dataset long3d")
        for name in ("scale_factor", "cloud_stride"):
            if not scan and getattr(self, name) != getattr(type(self), name):
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} applies only to long3d: leave it out of --dataset {self.data.dataset}")


def evaluate_poses(config: Pose) -> int:
    """Compare camera trajectories with a data set: ATE and RPE."""

    def compare(sequence: Sequence, predicted: Predicted) -> SequenceReport:
        truth = _required(sequence, "world_from_cam")
        found = inverse(predicted.cam_from_world)
        if config.alignment in ("scale", "none"):
            begin = int(np.argmax(np.isfinite(truth).all(axis=(1, 2))))
            found, truth = relative_to_first(found[begin:]), relative_to_first(truth[begin:])
        errors = evaluate_trajectory(found, truth, config.alignment)
        return report_trajectory(sequence.name, errors, truth, sequence.all_problems)

    return _run("pose", config.data, (), ("world_from_cam",), compare, {})


def evaluate_depths(config: Depth) -> int:
    """Compare depth maps with a data set: AbsRel, RMSE and the share of pixels within 25 %."""
    protocol = PROTOCOLS.get(config.data.dataset, DepthProtocol())

    def compare(sequence: Sequence, predicted: Predicted) -> SequenceReport:
        def pair(index: int) -> tuple[np.ndarray, np.ndarray]:
            truth = sequence.depth(index)
            return NOTHING if truth is None else depth_pair(predicted.depth(index), truth, predicted.fits[index])

        pairs = _Replay(pair, len(sequence))
        found = evaluate_depth(pairs, config.alignment, protocol)
        return report_depth(sequence.name, found, _maps(pairs, found, protocol), sequence.all_problems)

    return _run("depth", config.data, ("depth",), ("depths",), compare, {})


def evaluate_reconstructions(config: Reconstruction) -> int:
    """Compare point clouds with a data set: accuracy, completeness, normal consistency, Chamfer distance, F-score."""
    head = config.points_from == "head"

    def points(predicted: Predicted, index: int) -> np.ndarray:
        return predicted.points(index) if head else predicted.projected_points(index)

    def compare_frames(sequence: Sequence, predicted: Predicted) -> SequenceReport:
        cameras = relative_to_first(_required(sequence, "world_from_cam"))
        intrinsics = _required(sequence, "intrinsics")
        if not np.isfinite(cameras[0]).all():
            raise ValueError("the true pose of the first frame, whose camera is the world, is not known")

        def pair(index: int, cropped: bool) -> tuple[np.ndarray, np.ndarray]:
            depth = sequence.depth(index)
            if depth is None or not np.isfinite(cameras[index]).all() or not np.isfinite(intrinsics[index]).all():
                return NOTHING
            found, fit = points(predicted, index), predicted.fits[index]
            truth, known = true_points(depth, intrinsics[index], cameras[index], fit, *found.shape[:2])
            if cropped and min(found.shape[:2]) >= CROP:
                found, truth, known = (centre_crop(array, CROP) for array in (found, truth, known))
            return found[known], truth[known]

        published: reconstruction.Alignment = "published" if head else "published_projected"
        alignment = published if config.alignment == "published" else "fixed"
        whole, cropped = (_Replay(partial(pair, cropped=crop), len(sequence)) for crop in (False, True))
        compared = whole if alignment == "fixed" else cropped
        found = reconstruction.evaluate_reconstruction(compared, alignment, config.thresholds, whole)
        return report_reconstruction(sequence.name, found, sequence.all_problems)

    def compare_scan(sequence: Sequence, predicted: Predicted) -> SequenceReport:
        grid = VoxelGrid(VOXEL / 4, LONG3D_CUBES)
        for index in range(0, len(sequence), config.cloud_stride):
            found = points(predicted, index).reshape(-1, 3)
            grid.add(found, np.zeros(found.shape, np.uint8))
        truth = read_pcd(_required(sequence, "cloud"))
        errors = evaluate_long3d(grid.cloud()[0].astype(np.float64), truth, config.scale_factor, config.thresholds)
        report = report_reconstruction(sequence.name, errors, sequence.all_problems)
        assert grid.voxel is not None
        return report.under({"gathered in cubes of": grid.voxel})  # larger ones if there are too many points

    heads: tuple[HeadName, ...] = ("points",) if head else ("depth",)
    more: dict[str, str | int | float] = {"points from": config.points_from}
    if config.data.dataset == "long3d":
        more |= {"cloud stride": config.cloud_stride}
        return _run("reconstruction", config.data, heads, ("cloud",), compare_scan, more, config.cloud_stride)
    needs = ("world_from_cam", "depths", "intrinsics")
    return _run("reconstruction", config.data, heads, needs, compare_frames, more)


def _run(
    benchmark: str,
    options: DatasetOptions,
    heads: tuple[HeadName, ...],
    needs: tuple[str, ...],
    compare: Evaluate,
    more: Settings,
    every: int = 1,
) -> int:
    """Predict and compare one sequence after the other; print a table, and write a report to the folder.

    `more` are settings for the report besides those of all benchmarks. Only one frame in `every` is compared.
    """
    members = open_dataset(options.dataset, options.root, options.only, options.read)
    model = options.model.load()
    reports: list[SequenceReport] = []
    skipped: list[Skipped] = []
    for member in members:
        if isinstance(member, Skipped):
            skipped.append(member)
            continue
        stride = options.stride_for(len(member))
        sequence = member[::stride][: options.max_frames]
        say(f"{sequence.name}: {len(sequence)} frames")
        try:
            for field_name in needs:
                _required(sequence, field_name)
            with tempfile.TemporaryDirectory(prefix="ivggt_evaluate_") as folder:
                predicted = predict(
                    model, sequence, Path(folder), heads=heads, size=options.size or model.config.image_size,
                    mode=options.mode, cache=options.memory.cache_for(len(sequence)), mapping=options.mapping, every=every,
                )  # fmt: skip
                report = compare(sequence, predicted)
            reports.append(report.under({**options.settings(model.config, stride, len(sequence)), **more}))
        except ValueError as error:
            skipped.append(Skipped(sequence.name, str(error)))
        except OSError as error:
            reason = f"{error}; predictions are kept in {tempfile.gettempdir()} meanwhile, TMPDIR names another folder"
            skipped.append(Skipped(sequence.name, reason))
    if not reports:
        raise ValueError("no sequence could be evaluated: " + "; ".join(f"{s.name}: {s.reason}" for s in skipped))
    title = f"{benchmark} · {options.dataset}"
    print(summary_table(title, reports, skipped))
    out = options.out or Path("ivggt_out") / f"{benchmark}_{options.dataset}"
    write_report(out, title, reports, skipped)
    say(f"{len(reports)} sequences → {out}")
    return 0


@dataclass(frozen=True)
class _Replay:
    """Pairs that are recomputed on each iteration."""

    make: Callable[[int], tuple[np.ndarray, np.ndarray]]
    count: int

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return map(self.make, range(self.count))


def _maps(pairs: _Replay, found: DepthEvaluation, protocol: DepthProtocol) -> dict[str, str]:
    """Images of evenly spaced frames by caption."""
    images = {}
    for index in np.unique(np.linspace(0, pairs.count - 1, MAPS).round().astype(int)).tolist():
        pair = pairs.make(index)
        if pair is not NOTHING:
            aligned = found.scale * pair[0] + found.shift
            images[f"frame {index}"] = depth_maps(aligned, pair[1], error_map(aligned, pair[1], protocol))
    return images


def _required(sequence: Sequence, field: str) -> Any:
    """The truth of a sequence. Raises ValueError if the data set lacks it."""
    value = getattr(sequence, field)
    if value is None:
        raise ValueError(f"{sequence.dataset} has no {TRUTH[field]} of it")
    return value
