"""`evaluate stream`: error, drift, memory and time of a stream on endless videos."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from ivggt_jax.config import CacheConfig
from ivggt_jax.evaluate.options import MemoryOptions, ModelOptions, stream_settings
from ivggt_jax.evaluate.plots import line_plot, path_plot
from ivggt_jax.evaluate.records import Record, curves, map_measures, measures, run_walks
from ivggt_jax.evaluate.report import SequenceReport, summary_table, write_report
from ivggt_jax.evaluate.trajectory import evaluate_trajectory
from ivggt_jax.evaluate.walks import (
    CHUNK,
    HELD_OUT_SEED,
    DefectName,
    RouteName,
    Walk,
    check_frames_per_step,
    check_walks,
)
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.runs.command import say
from ivggt_jax.sources.fit import PATCH, nearest_size, usual_size


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Options of `evaluate stream`."""

    routes: tuple[RouteName, ...] = ("loop", "corridor")
    """Around a room repeatedly, with the same images or varied ones; along a corridor, a street, or endless equal doors."""
    seeds: tuple[int, ...] = (HELD_OUT_SEED,)
    """Seeds of scenes and paths; each route is walked once per seed. Training uses only smaller seeds."""
    frames: int = 1000
    """Length of each walk in frames."""
    size: int | None = None
    """Width of the frames in pixels, a multiple of 14; by default the model's own. Their height is three quarters of it."""
    defect: DefectName = "none"
    """Spoil the frames: noise of 5 %, two fifths of the light, a blur of one pixel, or JPEG of quality 30."""
    depth_sensor: int | None = None
    """Give every n-th frame the depth of a simulated sensor: up to 4 m, 2 % noise, holes in 30 % of the pixels."""
    out: Path = Path("ivggt_out/stream")
    """Folder for the report."""
    model: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    memory: Annotated[MemoryOptions, tyro.conf.arg(name="")] = field(default_factory=MemoryOptions)
    mapping: Annotated[SubmapOptions, tyro.conf.arg(name="")] = field(default_factory=SubmapOptions)

    def __post_init__(self) -> None:
        if self.frames < 3:
            raise ValueError(f"frames must be at least 3, for a path to have a shape, not {self.frames}")
        if self.size is not None and (self.size < PATCH or self.size % PATCH):
            raise ValueError(
                f"size {self.size} must be a multiple of {PATCH}; the nearest is {nearest_size(self.size)}"
            )
        if self.depth_sensor is not None and (self.depth_sensor < 1 or self.mapping.submaps == "off"):
            raise ValueError("depth-sensor is 1 for every frame, n for every n-th, and needs submaps")
        check_frames_per_step(self.memory.cache.frames_per_step)
        check_walks(self.routes, self.seeds)


def evaluate_streams(config: Stream) -> int:
    """Measure error, drift, memory and time on endless synthetic videos, as functions of the frame number."""
    model = config.model.load()
    width, height = usual_size(config.size or model.config.image_size)
    walks = [Walk(route, seed, height, width, defect=config.defect) for route in config.routes for seed in config.seeds]
    cache = config.memory.cache_for(config.frames)
    metric = config.depth_sensor is not None
    submaps = config.mapping.choose(model.config, config.frames, metric, cache.frames_per_step)
    records = run_walks(model, cache, walks, config.frames, submaps, config.mapping.loops, config.depth_sensor)
    reports = [
        report_record(record, cache, submaps).under({**config.model.settings, "size": width}) for record in records
    ]
    title = f"stream · {config.frames} frames of {width}×{height}"
    print(summary_table(title, reports))
    write_report(config.out, title, reports)
    say(f"{len(reports)} streams → {config.out}")
    return 0


def report_record(record: Record, cache: CacheConfig, submaps: SubmapConfig | None = None) -> SequenceReport:
    """The report of one stream."""
    drawn = curves(record)
    figures = {name: line_plot({name: values}, "frame", name) for name, values in drawn.items()}
    if np.isfinite(record.found).all():
        aligned = evaluate_trajectory(record.found, record.truth, "sim3").aligned
        figures = {"camera path": path_plot(record.truth[..., 3], aligned[..., 3])} | figures
    return SequenceReport(
        name=record.name,
        settings={
            "alignment": f"sim3 of paths, one scale for every {CHUNK} frames of depth",
            "clipped budgets": record.clipped,
            **stream_settings(cache, submaps),
        },
        measures=measures(record, len(record.truth)) | map_measures(record),
        curves=drawn,
        figures=figures,
    )
