"""`evaluate sensing`: the benefit of a depth sensor to a model with depth input, and how well moving things are detected.

Measured on synthetic walks with and without a simulated sensor. Depth is compared without alignment, in metres, and after one
scale per ten frames, over all pixels and over those that the sensor did not measure.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ivggt_jax import geometry
from ivggt_jax.config import CacheConfig
from ivggt_jax.evaluate.ghosts import Runner, moving_errors, overlap
from ivggt_jax.evaluate.options import MemoryOptions, ModelOptions
from ivggt_jax.evaluate.records import path_errors
from ivggt_jax.evaluate.walks import (
    CHUNK,
    HELD_OUT_SEED,
    RouteName,
    Walk,
    WalkPart,
    check_frames_per_step,
    check_walks,
    depth_errors,
)
from ivggt_jax.mapping.moving import View, motion_from_views
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.model.parameters import Model
from ivggt_jax.runs.command import say
from ivggt_jax.sources.fit import usual_size
from ivggt_jax.streaming.steps import init_stream, scan
from ivggt_jax.synthetic import Sensor, measure
from ivggt_jax.trajectories.alignment import inverse
from ivggt_jax.writers.files import replacing
from ivggt_jax.writers.run_json import plain

VIEWS = (-24, -16, -8, 8, 16, 24)
"""Offsets of the frames that show what moves in a frame, without training."""
BETWEEN = 3
"""Spacing of the frames that are judged."""


@dataclass(frozen=True, kw_only=True)
class SensorOptions:
    """The simulated sensor. Raises ValueError for shares outside their range."""

    noise: float = 0.02
    """Standard deviation of a pixel's error, as a share of its depth."""
    holes: float = 0.3
    """Share of pixels in holes."""
    far: float = 4.0
    """Largest depth that it measures, in metres."""
    frames: float = 1.0
    """Share of frames with depth; the first always has it."""

    def __post_init__(self) -> None:
        for name in ("noise", "holes", "frames"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share in [0, 1], not {getattr(self, name)}")

    def measured(self, seed: int, start: int, depth: np.ndarray) -> np.ndarray:
        """Simulated measurement of depth [T,H,W] of frames from number `start` on; 0 where there is none."""
        first = 1.0 if start == 0 else self.frames
        sensor = Sensor(noise=self.noise, holes=self.holes, near=0.1, far=self.far, frames=self.frames, first=first)
        return np.asarray(_measure(jax.random.fold_in(jax.random.key(seed), start), sensor, depth))


@dataclass(frozen=True, kw_only=True)
class Sensing:
    """Options of `evaluate sensing`."""

    routes: tuple[RouteName, ...] = ("loop", "crowd")
    """As in `evaluate stream`; bodies move only in "crowd"."""
    seeds: tuple[int, ...] = (HELD_OUT_SEED,)
    """Seeds of scenes and paths. Training uses smaller seeds only."""
    frames: int = 100
    """Length of each walk."""
    out: Path = Path("ivggt_out/sensing.json")
    """File for the numbers."""
    sensor: SensorOptions = field(default_factory=SensorOptions)
    model: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)
    memory: Annotated[MemoryOptions, tyro.conf.arg(name="")] = field(default_factory=MemoryOptions)

    def __post_init__(self) -> None:
        if self.frames < 1 + VIEWS[-1] - VIEWS[0]:
            raise ValueError(f"frames must be at least {1 + VIEWS[-1] - VIEWS[0]}, not {self.frames}")
        check_frames_per_step(self.memory.cache.frames_per_step)
        check_walks(self.routes, self.seeds)


def evaluate_sensing(config: Sensing) -> int:
    """Measure errors of depth, path and masks on synthetic walks: with and without a depth sensor, or with moving bodies."""
    model = config.model.load()
    size, cache = usual_size(model.config.image_size)[::-1], config.memory.cache_for(-(-config.frames // CHUNK) * CHUNK)
    submaps = SubmapOptions().choose(model.config, config.frames, needed=True)
    assert submaps is not None
    runner, rows = Runner(model, cache, submaps), []
    for route in config.routes:
        for seed in config.seeds:
            walk = Walk(route, seed, *size)
            for sensor in (None, config.sensor) if model.config.depth_input else (None,):
                told = "none" if sensor is None else "sensor"
                rows.append(
                    {"walk": walk.name, "told": told} | _errors(model, cache, walk, seed, sensor, config.frames)
                )
                if route == "crowd" and sensor is None:
                    rows[-1] |= moving_errors(runner, walk, Walk("loop", seed, *size), config.frames)
                with replacing(config.out) as file:
                    record = plain({"sensor": config.sensor, "walks": rows})
                    file.write(f"{json.dumps(record, indent=2, allow_nan=False)}\n".encode())
                say(", ".join(f"{name} {x if isinstance(x, str) else f'{x:.4f}'}" for name, x in rows[-1].items()))
    return 0


def _mean(values: list[float]) -> float:
    """Mean of the values that are not NaN; NaN if all are."""
    known = np.array(values)[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _errors(
    model: Model, cache: CacheConfig, walk: Walk, seed: int, sensor: SensorOptions | None, frames: int
) -> dict[str, float]:
    """The errors of one stream, by name."""
    heads = tuple(head for head in ("camera", "depth", "motion") if head in model.config.predicts)
    state = init_stream(model, cache, height=walk.size[0], width=walk.size[1], heads=heads)
    parts, seen, chunks = [], [], []
    for start in range(0, frames, CHUNK):
        part = walk.part(start, CHUNK)
        told = None if sensor is None else sensor.measured(seed, start, part.depth)
        state, found = scan(model, state, part.images[:, None], depth=None if told is None else told[:, None])
        kept = slice(frames - start)  # the last chunk may reach beyond the walk's end
        seen.append(jax.tree.map(lambda x, kept=kept: np.asarray(x)[kept, 0], found))
        parts.append(part.cut(kept))
        chunks.append(_chunk_errors(parts[-1], seen[-1].depth, None if told is None else told[kept]))
    errors = {name: _mean([chunk[name] for chunk in chunks]) for name in chunks[0]}
    found = jax.tree.map(lambda *x: np.concatenate(x), *seen)
    cam_from_world, intrinsics = map(np.asarray, _cameras(found.pose_encoding, *walk.size))
    truth = np.concatenate([part.world_from_cam for part in parts])
    path = path_errors(inverse(cam_from_world.astype(np.float64)), truth)
    errors["path_error_percent"] = 100 * path.over_length
    if parts[0].moving is None:
        return errors
    moving = np.concatenate([part.moving for part in parts if part.moving is not None])
    if found.motion is not None:
        errors["motion_overlap"] = overlap(moving, found.motion > 0.5)
    images = np.concatenate([part.images for part in parts]).astype(np.float32) / 255
    views = View(*map(jnp.asarray, (images, found.depth, cam_from_world, intrinsics)))
    by_views, judged = _motion_by_views(views)
    return errors | {"motion_overlap_by_views": overlap(moving[judged], by_views > 0.5)}


def _motion_by_views(views: View) -> tuple[np.ndarray, slice]:
    """What other frames contradict in every `BETWEEN`-th frame [F,H,W] with frames on both sides, and the slice of these."""
    judged = slice(-VIEWS[0], len(views.depth) - VIEWS[-1], BETWEEN)

    def one(number: int) -> np.ndarray:
        others = jax.tree.map(lambda x: x[number + np.array(VIEWS)], views)
        return np.asarray(_by_views(jax.tree.map(lambda x: x[number], views), others))

    return np.array([one(number) for number in range(len(views.depth))[judged]]), judged


def _chunk_errors(part: WalkPart, depth: np.ndarray, told: np.ndarray | None) -> dict[str, float]:
    """Errors of depth [T,H,W] of a part's frames; `told` is the sensor's input, if any."""
    errors = {"depth_error": float(np.mean(depth_errors(depth, part.depth).abs_rel))}
    if told is None:
        return errors
    known = part.depth > 0
    ratio = np.where(known, depth, np.nan) / np.where(known, part.depth, 1)
    holes = known & (told == 0) & (told > 0).any(axis=(1, 2), keepdims=True)
    return errors | {
        "metric_error": float(np.nanmean(np.abs(ratio - 1))),
        "metric_error_in_holes": float(np.mean(np.abs(ratio[holes] - 1))) if holes.any() else np.nan,
        "scale_error": float(np.abs(np.nanmedian(ratio) - 1)),
    }


_cameras = jax.jit(geometry.cameras_from_pose, static_argnums=(1, 2))
_measure = jax.jit(measure)
_by_views = jax.jit(motion_from_views)
