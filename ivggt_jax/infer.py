"""`python -m ivggt_jax.infer --frames dir/`: camera poses, depth and points of a video, in memory that does not grow."""

import contextlib
import dataclasses
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from tqdm import tqdm

from ivggt_jax import checkpoint, geometry
from ivggt_jax.command import free_memory, peak_memory, run_command
from ivggt_jax.config import CacheConfig
from ivggt_jax.model.parameters import Model
from ivggt_jax.model.vggt import Predictions
from ivggt_jax.sources import Frame, SourceConfig, open_source
from ivggt_jax.stream import StreamState, init_stream, step
from ivggt_jax.writers import ExportOptions, Result, Writers, write_run_json

SECONDS_BETWEEN_LINES = 5.0
"""Between progress lines where there is no terminal."""
SHARE_OF_MEMORY = 0.6
"""Of the free memory that the cache may take when the budget was not chosen."""
KEPT_TIMES = 10_000
"""Frame times remembered for the percentiles in `run.json`."""


@dataclass(frozen=True, kw_only=True)
class InferConfig:
    """Options of the command."""

    source: Annotated[SourceConfig, tyro.conf.arg(name="")]
    checkpoint: str = "demo"
    """A converted model's folder, a .pth or .safetensors file, a published name such as lch01/StreamVGGT, or demo."""
    out: Path | None = None
    """Folder for the results; by default ivggt_out/ and the name of the source."""
    overwrite: bool = False
    """Replace what an earlier run left in the folder."""
    export: tuple[str, ...] = ("tum", "intrinsics", "ply")
    """What to write."""
    heads: tuple[Literal["camera", "depth", "points", "tracks"], ...] = ("camera", "depth")
    """What to predict, camera always; tracks follow a grid of points from the first frame."""
    points_from: Literal["depth", "head"] = "depth"
    """Points from depth and camera (sharper), or from the point head."""
    track_grid: int = 8
    """Points along each side of the tracks' grid."""
    budget: int | None = None
    """Tokens kept, over all layers; by default 1,200,000, or what fits the free memory."""
    camera_cache: Literal["reference", "per_iteration"] = "reference"
    """What an iteration of the camera head sees of earlier frames: all iterations (as published), or its own (as trained)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the trunk; auto is bfloat16 on a GPU, float32 on a CPU."""
    options: Annotated[ExportOptions, tyro.conf.arg(name="")] = field(default_factory=ExportOptions)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    run_command(InferConfig, infer, arguments, "python -m ivggt_jax.infer")


def infer(config: InferConfig) -> int:
    """Camera poses, depth and points from a folder of images, a video or a camera, in memory that does not grow."""
    out = config.out or Path("ivggt_out") / (Path(config.source.frames).stem or "run")
    heads = _heads(config)
    model = checkpoint.load(config.checkpoint, None if config.precision == "auto" else config.precision)
    size = config.source.size or model.config.image_size
    with open_source(dataclasses.replace(config.source, size=size)) as source:
        frames = source.frames()
        first = next(frames)
        _prepare_folder(out, config.overwrite)
        height, width, _ = first.image.shape
        cache = _cache_config(config, model, height, width, source.length)
        state = init_stream(
            model, cache, height=height, width=width, heads=heads, query_points=_grid(config, height, width)
        )
        progress = _Progress(source.expected_length, state)
        run = _Run(config, model, state, Writers(config.export, out, config.options), progress)
        with _interruptible() as interrupted:
            try:
                run.feed(chain([first], frames), interrupted)
            finally:
                # Also after an error: what was finished is on disk, and this says how to read it.
                skipped = {"count": source.skipped, "names": source.skipped_names, "dropped": source.dropped}
                write_run_json(out, {**run.record(), "skipped": skipped, "interrupted": bool(interrupted)})
                print(f"{run.frames} frames → {out}", file=sys.stderr)
    return 130 if interrupted else 0


class _Run:
    """Frames through the model into the writers: one is read ahead, one computed, one written behind."""

    def __init__(self, config: InferConfig, model: Model, state: StreamState, writers: Writers, progress: "_Progress"):
        self.config, self.model, self.state = config, model, state
        self.writers, self.progress = writers, progress
        self.frames = 0
        self.points: np.ndarray | None = None

    def feed(self, frames: Iterator[Frame], interrupted: list[int]) -> None:
        """Run until the frames or the user's patience end; everything that was begun is finished and closed."""
        pending: tuple[Frame, Predictions] | None = None
        writing: deque[Future] = deque()
        with contextlib.ExitStack() as stack:
            stack.callback(self.progress.close)
            stack.callback(self.writers.close)
            thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="write-behind"))
            try:
                for frame in frames:
                    self.state, predictions = step(self.model, self.state, frame.image[None])
                    self._write(thread, writing, pending)
                    pending = frame, predictions
                    if interrupted:
                        break
            finally:
                self._write(thread, writing, pending)
                while writing:
                    writing.popleft().result()

    def _write(
        self, thread: ThreadPoolExecutor, writing: deque[Future], pending: tuple[Frame, Predictions] | None
    ) -> None:
        """Wait for a frame's predictions and hand them to the writers, at most one frame behind."""
        if pending is None:
            return
        frame, predictions = pending
        host = jax.tree.map(lambda x: np.asarray(x[0]), predictions)
        while writing:
            writing.popleft().result()
        writing.append(thread.submit(self._finish, frame, host))
        self.progress.advance(self.state)

    def _finish(self, frame: Frame, host: Predictions) -> None:
        """In the writing thread."""
        self.writers.write(_result(self.config, frame, host))
        self.frames += 1

    def record(self) -> dict[str, Any]:
        """What `run.json` says of this run."""
        lengths, settings = np.asarray(self.state.lengths[0]), self.state.settings
        return {
            "versions": {name: version(name) for name in ("ivggt_jax", "jax", "flax")},
            "device": str(jax.devices()[0].device_kind),
            "settings": self.config,
            "model": {"checkpoint": self.config.checkpoint, "config": self.model.config},
            "cache": settings.cache,
            "input": {"height": settings.height, "width": settings.width, "tokens_per_frame": settings.tokens},
            "frames": self.frames,
            "milliseconds_per_frame": self.progress.percentiles(),
            "peak_memory_bytes": peak_memory(),
            "stream_bytes": self.state.nbytes,
            "tokens_kept": {"total": int(lengths.sum()), "by_layer": lengths},
            "budgets_clipped": int(self.state.clipped[0]),
            "tokens_dropped": int(self.state.dropped[0]),
            "outputs": self.writers.record(),
        }


class _Progress:
    """A bar on a terminal, a plain line every few seconds elsewhere: ms/frame and how full the cache is."""

    def __init__(self, total: int | None, state: StreamState):
        self._total = total
        self._bar = tqdm(total=total, unit="frame", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._times: deque[float] = deque(maxlen=KEPT_TIMES)
        self._count = 0
        self._started = self._line = time.perf_counter()
        self._last = self._started
        budget = state.settings.cache.total_budget
        self._room = budget or state.settings.slots * state.settings.model.depth

    def advance(self, state: StreamState) -> None:
        """One more frame is done."""
        now = time.perf_counter()
        self._count += 1
        if self._count > 1:  # The first one compiles.
            self._times.append(1000 * (now - self._last))
        self._last = now
        if self._bar.disable and now - self._line < SECONDS_BETWEEN_LINES:
            return
        self._line = now
        pace = f"{np.median(self._times):.0f} ms/frame" if self._times else "compiled"
        filled = f"cache {100 * int(state.lengths[0].sum()) / self._room:.0f} %"
        if self._bar.disable:
            of = f"/{self._total}" if self._total else ""
            print(f"frame {self._count}{of}, {pace}, {filled}", file=sys.stderr, flush=True)
        else:
            self._bar.set_postfix_str(f"{pace}, {filled}", refresh=False)
            self._bar.update(self._count - self._bar.n)

    def percentiles(self) -> dict[str, float]:
        """Median and 95th percentile of the time between frames; empty when there was only one."""
        return {f"p{q}": float(np.percentile(self._times, q)) for q in (50, 95)} if self._times else {}

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def _heads(config: InferConfig) -> tuple[str, ...]:
    needed = {"camera", *config.heads} | ({"points"} if config.points_from == "head" else set())
    return tuple(sorted(needed))


def _grid(config: InferConfig, height: int, width: int) -> np.ndarray | None:
    """Query points [1,N,2] on a regular grid, for the tracks head."""
    if "tracks" not in config.heads:
        return None
    x, y = (np.linspace(0, side - 1, config.track_grid + 2)[1:-1] for side in (width, height))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(1, -1, 2).astype(np.float32)


def _prepare_folder(out: Path, overwrite: bool) -> None:
    """An empty folder for the results. Raises ValueError when it holds an earlier run that is to be kept."""
    if (out / "run.json").exists() or (out / "trajectory.txt").exists():
        if not overwrite:
            raise ValueError(f"{out} holds an earlier run; --overwrite replaces it, --out DIR goes elsewhere")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def _cache_config(config: InferConfig, model: Model, height: int, width: int, length: int | None) -> CacheConfig:
    """The cache for this source: no larger than the source needs or than free memory holds."""
    cache = CacheConfig(camera_cache=config.camera_cache, max_frames=length)
    if config.budget is not None:
        return dataclasses.replace(cache, total_budget=config.budget)

    def size(cache: CacheConfig) -> int:
        state = jax.eval_shape(lambda: init_stream(model, cache, height=height, width=width))
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))

    room = SHARE_OF_MEMORY * free_memory()
    needed = size(cache)
    if needed <= room:
        return cache
    least = model.config.tokens_per_frame(height, width) * model.config.depth
    fixed = size(dataclasses.replace(cache, total_budget=least))
    assert cache.total_budget is not None
    lowered = least + int((cache.total_budget - least) * max(0.0, room - fixed) / (needed - fixed))
    print(f"cache lowered to {lowered:,} tokens to fit the free memory; --budget sets it", file=sys.stderr)
    return dataclasses.replace(cache, total_budget=lowered)


def _result(config: InferConfig, frame: Frame, host: Predictions) -> Result:
    """The record for the writers."""
    height, width, _ = frame.image.shape
    from_depth = config.points_from == "depth" and host.depth is not None
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        cam_from_world, intrinsics, unprojected = _geometry(
            host.pose_encoding, host.depth if from_depth else None, height, width
        )
    fields: dict[str, Any] = {
        name: getattr(host, name) for name in ("depth", "depth_confidence", "points", "points_confidence")
    }
    if from_depth:
        fields |= {"points": np.asarray(unprojected), "points_confidence": host.depth_confidence}
    return Result(
        frame=frame,
        cam_from_world=np.asarray(cam_from_world, np.float64),
        intrinsics=np.asarray(intrinsics, np.float64),
        tracks=host.tracks,  # type: ignore[arg-type]
        visibility=host.visibility,  # type: ignore[arg-type]
        **fields,
    )


@partial(jax.jit, static_argnames=("height", "width"))
def _geometry(pose_encoding, depth, height, width):
    """Camera, and points where there is a depth."""
    cam_from_world, intrinsics = geometry.cameras_from_pose(pose_encoding, height, width)
    points = None if depth is None else geometry.unproject(depth, cam_from_world, intrinsics)
    return cam_from_world, intrinsics, points


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM: the frame at hand is finished first. A second Ctrl-C is immediate."""
    interrupted: list[int] = []

    def note(number: int, _: object) -> None:
        if interrupted:
            raise KeyboardInterrupt
        interrupted.append(number)
        print("\nfinishing the frame at hand; again to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
