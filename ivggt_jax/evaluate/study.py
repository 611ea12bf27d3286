"""The memory study: policies × budgets × lengths, with one option changed at a time, and submaps, all on the same endless videos.

A stream's first frames do not depend on its length, so one run gives all lengths. Each cell of the study is a file. A study that
was stopped continues where it was, and a study with changed settings measures the affected cells again.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from ivggt_jax.config import CacheConfig
from ivggt_jax.disk.strict_json import JsonError, read_json
from ivggt_jax.evaluate.options import ModelOptions
from ivggt_jax.evaluate.records import Record, curves, measures, record_clip, run_walks
from ivggt_jax.evaluate.study_report import not_compared, write_study
from ivggt_jax.evaluate.walks import CHUNK, HELD_OUT_SEED, RouteName, Walk, check_walks
from ivggt_jax.mapping.config import SubmapConfig
from ivggt_jax.memory.policies import POLICIES
from ivggt_jax.model.parameters import Model
from ivggt_jax.runs.command import say
from ivggt_jax.runs.resume import weights_fingerprint
from ivggt_jax.sources.fit import usual_size
from ivggt_jax.writers.files import replacing

FULL_FRAMES = 10_000
LONGEST_REMEMBERED = 2_000
"""Longest walks, in frames, that are rendered once and kept in memory for all cells: 65 kB per frame at 84×112."""
SUBMAPS = (8, 16, 32, 48, 80)
"""Submap lengths, in frames, that are compared."""
LONGEST_CLIP = 300
"""Most frames that the offline reference sees at once; its time grows with their square."""
SHIPPED = "docs/study, beside the source code, has the demo model's cells: default lengths and seeds, on a CPU"


@dataclass(frozen=True, kw_only=True)
class Study:
    """Options of `evaluate study`."""

    out: Path = Path("ivggt_out/study")
    """Folder for cells, tables and plots; with `--full` its subfolder `full`."""
    lengths: tuple[int, ...] = (100, 300, 1000)
    """Frames after which errors are measured; the last is the length of the streams."""
    budgets: tuple[int, ...] = (6, 24)
    """Frames per layer on average, including the first. Options are compared at the smallest, where they matter most."""
    routes: tuple[RouteName, ...] = ("loop",)
    """Routes; the demo model was trained on rooms."""
    seeds: tuple[int, ...] = tuple(range(HELD_OUT_SEED, HELD_OUT_SEED + 6))
    """Scenes and paths of each route."""
    only: tuple[str, ...] = ()
    """Names of the cells to measure; all by default. Tables also include cells measured earlier."""
    full: bool = False
    """Streams of 10,000 frames; policies at the smallest budget only."""
    model: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)

    def __post_init__(self) -> None:
        if list(self.lengths) != sorted(set(self.lengths)) or not self.lengths or self.lengths[0] < 3:
            raise ValueError(f"lengths {self.lengths} must rise from at least 3 frames")
        if not self.budgets:
            raise ValueError("budgets need an entry")
        check_walks(self.routes, self.seeds)

    @property
    def smallest(self) -> int:
        """The budget at which options are compared."""
        return min(self.budgets)


@dataclass(frozen=True)
class Cell:
    """One configuration to measure."""

    name: str
    group: str
    """The table it belongs to."""
    cache: CacheConfig | None
    """None: whole clips at once, in which every frame sees all."""
    submaps: SubmapConfig | None = None
    """None: one undivided stream."""
    loops: bool = False
    """Measure the path after correction by loops at the end."""


def run_study(config: Study) -> int:
    """Compare memory policies, budgets and options on endless synthetic videos; continues where it was stopped."""
    if config.full:
        lengths = (*(n for n in config.lengths if n < FULL_FRAMES), FULL_FRAMES)
        config = replace(config, out=config.out / "full", lengths=lengths)
    model = config.model.load()
    height, width = usual_size(model.config.image_size)[::-1]
    tokens = model.config.tokens_per_frame(height, width) * model.config.depth
    remember = config.lengths[-1] <= LONGEST_REMEMBERED
    walks = [Walk(route, seed, height, width, remember) for route in config.routes for seed in config.seeds]
    every = list(cells(config, tokens))
    wanted = _chosen(every, config.only)
    results, left_out = {}, dict[str, list[str]]()
    for cell in every:
        settings = _settings(config, cell, model, walks)
        result = _kept(config.out, cell, settings)
        if result is None and cell not in wanted:
            if differing := _differing(config.out, cell, settings):
                left_out[cell.name] = differing
            continue
        if result is None:
            began = time.perf_counter()
            records = _records(model, cell, walks, config.lengths)
            result = {"settings": settings, "group": cell.group, **_numbers(records, config.lengths)}
            result["seconds"] = round(time.perf_counter() - began, 1)
            _keep(config.out, cell, result)
            say(f"cell {wanted.index(cell) + 1} of {len(wanted)}: {cell.name}, {result['seconds']} s")
        results[cell.name] = result
    write_study(config.out, results, config.smallest)
    say(f"{len(results)} cells → {config.out}")
    _say_notes(left_out, not_compared(results, config.smallest))
    return 0


def cells(config: Study, tokens: int) -> Iterator[Cell]:
    """All cells of a study, for frames of `tokens` tokens over all layers."""

    def bounded(frames: int, **options: Any) -> CacheConfig:
        return CacheConfig(total_budget=frames * tokens, max_frames=config.lengths[-1], **options)

    smallest = config.smallest
    if not config.full:
        if config.lengths[0] <= LONGEST_CLIP:
            yield Cell("offline", "references", None)
        yield Cell("unbounded", "references", CacheConfig(total_budget=None, max_frames=config.lengths[-1]))
    for frames in (smallest,) if config.full else config.budgets:
        for policy in POLICIES:
            yield Cell(
                f"{policy}, {frames} frames", f"policies, {frames} frames a layer", bounded(frames, policy=policy)
            )
    if config.full:
        return
    options: dict[str, dict[str, Any]] = {
        "temperature 0.1": {"temperature": 0.1},
        "temperature 2": {"temperature": 2.0},
        "all layers the same": {"temperature": math.inf},
        "no anchor": {"anchor_frames": 0},
        "3 anchor frames": {"anchor_frames": 3},
        "special tokens protected": {"protect_special": True},
        "evict after attention": {"evict_after_attention": True},
        "adaptive budget": {"least_budget": smallest * tokens // 2},
        "camera per iteration": {"camera_cache": "per_iteration"},
    }
    for name, changed in options.items():
        yield Cell(name, f"options, {smallest} frames a layer", bounded(smallest, **changed))
    group, usual = f"maps, {smallest} frames a layer", SubmapConfig()
    for frames in SUBMAPS:
        yield Cell(f"submaps of {frames}", group, bounded(smallest), SubmapConfig(frames=frames))
    yield Cell(f"submaps of {usual.frames}, not refined", group, bounded(smallest), replace(usual, refine=False))
    yield Cell(f"submaps of {usual.frames}, loops closed", group, bounded(smallest), usual, loops=True)


def _chosen(every: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    if unknown := set(only) - {cell.name for cell in every}:
        raise ValueError(f"no cell {', '.join(sorted(unknown))}; known: {'; '.join(cell.name for cell in every)}")
    return [cell for cell in every if not only or cell.name in only]


def _records(model: Model, cell: Cell, walks: Sequence[Walk], lengths: Sequence[int]) -> dict[int, list[Record]]:
    """The records from which each length's errors are taken. A map with loops has one length, since it is corrected at its end."""
    if cell.cache is not None:
        records = run_walks(model, cell.cache, walks, lengths[-1], cell.submaps, cell.loops)
        if not cell.loops:
            return dict.fromkeys(lengths, records)
        maps = [(record, record.loops) for record in records if record.loops]
        corrected = [
            replace(record, found=loops.corrected, depth_scale=record.depth_scale / loops.scales)
            for record, loops in maps
        ]
        return {lengths[-1]: corrected}
    return {n: [record_clip(model, walk, n) for walk in walks] for n in lengths if n <= LONGEST_CLIP}


def _numbers(records: Mapping[int, list[Record]], lengths: Sequence[int]) -> dict[str, Any]:
    """Measures by length and walk, and curves by walk, with a point every `CHUNK` frames."""
    longest = records[max(records)]
    return {
        "measures": {
            str(n): {record.name: measures(record, n) for record in records[n]} for n in lengths if n in records
        },
        "curves": {
            record.name: {name: [_short(x) for x in values[::CHUNK]] for name, values in curves(record).items()}
            for record in longest
        },
        "clipped": sum(record.clipped for record in longest),
    }


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _settings(config: Study, cell: Cell, model: Model, walks: Sequence[Walk]) -> dict[str, Any]:
    """What a cell's numbers depend on, for JSON."""
    cache = None if cell.cache is None else {name: str(value) for name, value in asdict(cell.cache).items()}
    mapping = {} if cell.submaps is None else {"submaps": asdict(cell.submaps), "loops": cell.loops}
    return mapping | {
        "weights": weights_fingerprint(model),
        "dtype": str(jax.tree.leaves(model.params)[0].dtype),
        "device": jax.devices()[0].device_kind,
        "lengths": list(config.lengths),
        "walks": [walk.name for walk in walks],
        "size": list(usual_size(model.config.image_size)[::-1]),
        "cache": cache,
    }


def _file(out: Path, cell: Cell) -> Path:
    return out / "cells" / f"{cell.name.replace(', ', '_').replace(' ', '-')}.json"


def _kept(out: Path, cell: Cell, settings: dict[str, Any]) -> dict[str, Any] | None:
    """An earlier result of the cell with the same settings."""
    try:
        result = read_json(_file(out, cell))
    except JsonError:
        return None
    return result if result.get("settings") == settings else None


def _differing(out: Path, cell: Cell, settings: dict[str, Any]) -> list[str]:
    """The settings in which an earlier result of the cell differs, so that it does not fit the table; empty if it fits."""
    try:
        earlier = read_json(_file(out, cell)).get("settings")
    except JsonError:
        return []
    known = earlier if isinstance(earlier, dict) else {}
    return [name for name in {**settings, **known} if settings.get(name) != known.get(name)]


def _say_notes(left_out: Mapping[str, list[str]], missing: Sequence[str]) -> None:
    """Report which cells are not in the tables, with the settings they were measured with, and which comparisons are missing."""
    if left_out:
        names = dict.fromkeys(name for differing in left_out.values() for name in differing)
        say(f"note: cells of other settings ({', '.join(names)}) are left out of the tables: {'; '.join(left_out)}")
    if missing:
        say(
            f"note: the tables have no differences where there is no cell {' and '.join(map(repr, missing))}: name it in "
            f"--only too, or give --out a folder that has it. {SHIPPED}"
        )


def _keep(out: Path, cell: Cell, result: dict[str, Any]) -> None:
    with replacing(_file(out, cell)) as file:
        file.write(json.dumps(_finite(result), ensure_ascii=False, allow_nan=False).encode())


def _finite(value: Any) -> Any:
    """The value, with null for non-finite numbers."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
