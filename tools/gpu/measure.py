"""What a GPU is to be asked, by value: python tools/gpu/measure.py [--out gpu.json] [--sections kernels steps profile streams]

Correctness of each section comes first, then its times. Every case is written to the file when it is done, a failure with its
message, and the next one follows. The weights are made once. Needs the package, JAX for CUDA and Flax; each section is meant to
take less than eight minutes. XLA_PYTHON_CLIENT_PREALLOCATE=false lets the allocator count what is used. Has not run on a GPU as it
stands. Beside it go `pytest` on one (JAX_PLATFORMS=cuda), `python -m ivggt_jax.bench --reference CLONE`, and for training
`python -m train supervised published --student random:vggt_1b --steps 30 --log-every 10`.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np
import tyro
from kernels import kernels, profile

from ivggt_jax.bench import device
from ivggt_jax.bench.case import Case, fill, make_frames, make_model, start
from ivggt_jax.model.parameters import Model, cast
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import scan, step

FAST = Case(preset="fast", chunk=4)
STEPS = {
    "small": Case(preset="small", chunk=4, capacity_factor=1.1, heads=("camera", "depth")),
    "fast, 200,000 tokens": replace(FAST, budget=200_000),
    "exact, 500,000 tokens": Case(budget=500_000),
    "fast, 500,000 tokens": replace(FAST, budget=500_000),
    "exact": Case(),
    "exact, evicting after attention": Case(evict_after_attention=True),
    "fast": FAST,
}
"""From the least memory to the most: the allocator counts the most since the process began."""
STREAMS = {f"{batch} streams, 300,000 tokens": Case(budget=300_000, batch=batch) for batch in (1, 2, 4, 8)}
CHECKED, CALLS, IN_FLIGHT = 24, 20, 5
Section = Literal["kernels", "steps", "profile", "streams"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of this program."""

    out: Path = Path("gpu.json")
    """File for all that was found; what it holds of other cases stays."""
    sections: tuple[Section, ...] = get_args(Section)
    """In this order."""
    case: Case = field(default_factory=Case)
    """Changes the model for a trial on a small one: --case.model tiny."""


def call(model: Model, state: StreamState, frames: np.ndarray) -> tuple[StreamState, Any]:
    """A step or a scan, as the number of frames [chunk,batch,H,W,3] asks."""
    return step(model, state, frames[0]) if len(frames) == 1 else scan(model, state, frames)


def agreement(case: Case) -> dict[str, float]:
    """How far the demo model's depth is from float32's on the CPU after frames that evict: mean and largest, relative."""
    case = replace(case, model="demo", checkpoint="demo", budget=6 * 4 * 53, size="112x84", batch=1)
    model = make_model(case)
    exact = jax.device_put(cast(model, "float32"), jax.local_devices(backend="cpu")[0])
    found = []
    for where, weights in ((jax.local_devices()[0], model), (jax.local_devices(backend="cpu")[0], exact)):
        with jax.default_device(where):
            state = start(case, weights)
            depths = []
            for frames in make_frames(case, weights.config, CHECKED // case.chunk):
                state, predictions = call(weights, state, frames)
                depths.append(np.asarray(predictions.depth).reshape(case.chunk, -1))
            found.append(np.concatenate(depths))
    error = np.abs(found[0] - found[1]) / found[1]
    return {"depth_error_mean": float(error.mean()), "depth_error_largest": float(error.max())}


def timing(case: Case, model: Model) -> dict[str, float]:
    """Milliseconds a frame with several calls in flight, and the allocator's peak so far in bytes, all heads' weights included."""
    model = model.only_heads(case.heads)
    frames = make_frames(case, model.config, 2)
    began = time.perf_counter()
    state, predictions = call(model, start(case, model), frames[0])
    jax.block_until_ready(predictions)
    first = time.perf_counter() - began
    state = fill(state, case.seen)
    waiting: list[Any] = []
    for index in range(IN_FLIGHT + CALLS):
        if index == IN_FLIGHT:
            jax.block_until_ready(waiting)
            began = time.perf_counter()
        state, predictions = call(model, state, frames[index % 2])
        waiting.append(predictions)
        if len(waiting) > IN_FLIGHT:
            jax.block_until_ready(waiting.pop(0))
    jax.block_until_ready(waiting)
    spent = time.perf_counter() - began
    statistics = jax.local_devices()[0].memory_stats() or {}
    return {
        "first_call_s": first,
        "ms_per_frame": 1e3 * spent / CALLS / case.chunk,
        "frames_per_second": CALLS * case.chunk * case.batch / spent,
        "peak_bytes_so_far": statistics.get("peak_bytes_in_use", 0),
    }


def cases(options: Options) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every case of the sections asked for, by name: what to do."""
    model: list[Model] = []

    def timed(case: Case) -> dict[str, Any]:
        if not model:
            model.append(make_model(options.case))
        case = replace(case, model=options.case.model)
        return {**asdict(case), **timing(case, model[0])}

    for section in options.sections:
        if section == "kernels":
            yield section, kernels
        if section == "profile":
            yield section, partial(profile, options.case)
        if section == "steps":
            for name, case in (("exact", Case()), ("fast", FAST)):
                yield f"agreement: {name}", partial(agreement, case)
        for name, case in {"steps": STEPS, "streams": STREAMS}.get(section, {}).items():
            yield f"{section}: {name}", partial(timed, case)


def main() -> None:
    """Runs the cases and keeps what each gave."""
    options = tyro.cli(Options)
    record: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name, do in cases(options):
        began = time.perf_counter()
        try:
            found = do()
        except Exception as error:  # whatever it is, the other cases are worth having
            found = {"failed": f"{type(error).__name__}: {error}"[:500]}
        record[name] = {"found": found, "seconds": time.perf_counter() - began, "device": device.describe()}
        options.out.write_text(json.dumps(record, indent=2, default=str) + "\n")
        print(name, found, flush=True)


if __name__ == "__main__":
    main()
