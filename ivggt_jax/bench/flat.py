"""Whether an endless run stays constant: time and memory per frame through source, step and writers, early and late."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ivggt_jax.bench import device
from ivggt_jax.bench.case import Case, make_frames, make_model, start
from ivggt_jax.evaluate.walks import ROUTES, Walk
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.runs.progress import Progress
from ivggt_jax.runs.run import Run
from ivggt_jax.sources import Frame, SourceConfig, open_source
from ivggt_jax.writers import ExportOptions, Writers

OUTPUTS = ("tum", "intrinsics", "ply")
"""Outputs that `infer` writes by default."""
IMAGES = 16
"""Number of different frames, used in turn. They are noise, because the content of a picture does not affect the time."""
ONE_STREAM = SubmapOptions(submaps="off")
"""No map. With a map, frames are those of a repeated walk around a room, so that there is something to align."""


@dataclass(frozen=True)
class Window:
    """A part of the run."""

    frames: tuple[int, int]
    """First and last frame."""
    seconds: float
    """Median time from one frame to the next."""
    mean: float
    """Mean of the same, which is larger because frames that begin a submap or are compared with places take longer."""
    host: int
    """Median of the bytes that the process holds."""
    device: int | None
    """Median of the bytes that arrays take on the device; None if the backend does not report them."""
    stream: int
    """Largest size in bytes of everything that the stream remembers."""


def run_flat(case: Case, count: int, mapping: SubmapOptions = ONE_STREAM) -> tuple[Window, Window]:
    """The first and the last tenth of the frames after the budget is reached.

    Raises ValueError when the run is too short for that, or the case has more than one stream.
    """
    if case.batch != 1 or case.chunk != 1 or "camera" not in case.heads or "depth" not in case.heads:
        raise ValueError("--flat runs what ivggt does: one stream, frame by frame, with camera and depth")
    model = make_model(case)
    state = start(
        case, model, mapping.choose(model.config, None, frames_per_step=case.cache(model.config).frames_per_step)
    )
    settings = state.settings
    reached = -(-(settings.cache.total_budget or 0) // (settings.model.depth * settings.tokens)) + 1
    tenth = (count - reached) // 10
    if tenth < 10:
        raise ValueError(f"--flat {count}: the budget is reached at frame {reached}; a tenth of the rest is too short")
    mapped = settings.submaps is not None
    outputs = [*OUTPUTS, *(("submaps",) if mapped else ()), *(("loops",) if mapping.loops else ())]
    with tempfile.TemporaryDirectory() as folder:
        images = _room(case.image_size(model.config)) if mapped else make_frames(case, model.config, IMAGES)[:, 0, 0]
        listed = _write_images(Path(folder), images, count)
        writers = Writers(outputs, Path(folder) / "out", ExportOptions())
        run = Run(model, state, writers, Progress(count, 0, state), points_from_depth=True)
        clock = _Clock(run)
        with open_source(SourceConfig(frames=str(listed), size=settings.width)) as source:
            run.feed(clock.watch(iter(source)), [])
    return clock.window(reached, reached + tenth), clock.window(count - tenth, count - 1)


class _Clock:
    """Records when each frame is requested, and the memory held then."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._notes: list[tuple[float, int, int, int]] = []

    def watch(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            held = device.resident(), device.device_bytes() or 0, self._run.state.nbytes
            self._notes.append((time.perf_counter(), *held))
            yield frame

    def window(self, first: int, last: int) -> Window:
        times, host, on_device, stream = np.array(self._notes[first : last + 1]).T
        held = int(np.median(on_device)) or None
        steps = np.diff(times)
        median, mean = float(np.median(steps)), float(np.mean(steps))
        return Window((first, last), median, mean, int(np.median(host)), held, int(stream.max()))


def _room(size: tuple[int, int]) -> np.ndarray:
    """One round of a walk around a room, uint8 [N,H,W,3]."""
    period = ROUTES["loop"].period
    assert period is not None
    walk = Walk("loop", 0, *size)
    return np.concatenate([walk.part(first, 10).images for first in range(0, period, 10)])


def _write_images(folder: Path, images: np.ndarray, count: int) -> Path:
    """Write images [N,H,W,3] as files, and a list that repeats them."""
    (folder / "out").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    listed = folder / "frames.txt"
    listed.write_text("".join(f"{i % len(images)}.png\n" for i in range(count)))
    return listed
