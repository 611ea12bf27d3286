"""`python -m ivggt_jax.bench`: time and memory of a frame, stage by stage, with the theoretical minimum and the PyTorch code."""

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from ivggt_jax.bench import device, own, report
from ivggt_jax.bench.case import Case
from ivggt_jax.bench.flat import ONE_STREAM, run_flat
from ivggt_jax.bench.process import measuring
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.runs.command import run_command, say

SWEPT = ("size", "budget", "seen", "batch", "chunk", "frames_per_step", "cache_dtype")

WORDS = ("size", "cache_dtype")
"""Swept options whose values are not numbers."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Options of the command. Raises ValueError when they contradict each other."""

    case: Annotated[Case, tyro.conf.arg(name="")] = field(default_factory=Case)
    frames: int = 20
    """Number of calls to time, after warm-up."""
    sweep: tuple[str, ...] = ()
    """Measure all combinations of: budget=100000,400000 batch=1,4; also size, seen, chunk, frames_per_step, cache_dtype."""
    reference: Path | None = None
    """A clone of the PyTorch repository, measured alternately with the same weights and frames on the same device."""
    flat: int | None = None
    """Instead, run this many frames from image files to outputs, and compare early frames with late ones."""
    mapping: Annotated[SubmapOptions, tyro.conf.arg(name="")] = ONE_STREAM
    json: Path = Path("bench.json")
    """File for all measurements, in seconds and bytes."""

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ValueError(f"--frames must be at least 2, not {self.frames}")
        every_head = set(self.case.heads) == {"camera", "depth", "points"}
        cases = list(self.cases())
        if self.reference and not (every_head and all(case.batch == 1 for case in cases)):
            raise ValueError("--reference: the PyTorch code runs one stream and all of camera, depth and points")
        if self.reference and any(case.together > 1 or case.cache_dtype for case in cases):
            raise ValueError("--reference: the PyTorch code runs frame by frame, its cache in the trunk's type")
        if self.reference and self.case.checkpoint is None and self.case.model != "vggt_1b":
            raise ValueError("--reference: the PyTorch code has the published shapes only; leave --model out")
        if self.flat is not None and (self.reference or self.sweep):
            raise ValueError("--flat goes without --reference and --sweep")
        if self.flat is None and self.mapping != ONE_STREAM:
            raise ValueError("--submaps, --no-refine and --loops are for --flat, which runs what ivggt does")
        if not self.json.parent.is_dir():
            raise ValueError(f"--json {self.json}: there is no folder {self.json.parent}")
        if self.json.is_dir():
            raise ValueError(f"--json {self.json} is a folder; give the file to write")

    def cases(self) -> Iterator[Case]:
        """The case, or all combinations of the swept values."""
        axes = []
        for text in self.sweep:
            name, _, values = text.partition("=")
            if name not in SWEPT or not values:
                raise ValueError(f"--sweep {text}: give NAME=VALUE,VALUE with one of {', '.join(SWEPT)}")
            texts = values.split(",")
            axes.append([(name, value if name in WORDS else _number(text, value)) for value in texts])
        for chosen in itertools.product(*axes):
            yield replace(self.case, **dict(chosen))  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None, program: str = "python -m ivggt_jax.bench") -> None:
    """The command line program."""
    run_command(BenchConfig, bench, arguments, program)


def bench(config: BenchConfig) -> int:
    """Measure time and memory of a frame with a full cache, by stage, and compare with the theoretical minimum and PyTorch."""
    record: dict[str, Any]
    if config.flat is not None:
        first, last = run_flat(config.case, config.flat, config.mapping)
        record = {"machine": device.describe(), "case": asdict(config.case)}
        record |= {"mapping": asdict(config.mapping), "first": asdict(first), "last": asdict(last)}
        print(f"{report.machine_line(record['machine'])}\n\n{report.flat_table(first, last)}")
    else:
        results: list[dict[str, Any]] = []
        for case in config.cases():
            result = measure_case(case, config.frames, config.reference)
            if not results:
                print(report.machine_line(result["machine"]))
            print(f"\n{report.result_tables(result)}", flush=True)
            results.append(result)
        record = {"results": results}
    config.json.write_text(json.dumps(record, indent=2, default=str) + "\n")
    say(f"→ {config.json}")
    return 0


def measure_case(case: Case, frames: int, reference: Path | None = None) -> dict[str, Any]:
    """All measurements of one case, in seconds and bytes; docs/performance.md explains each.

    Raises ValueError with the message of whatever could not be measured.
    """
    with ExitStack() as stack:
        compiled = stack.enter_context(tempfile.TemporaryDirectory())
        environment = {"JAX_COMPILATION_CACHE_DIR": compiled}
        if reference:  # Otherwise JAX reserves most of a GPU's memory
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        say("compiling")
        with measuring(own.measure, case, frames, environment=environment) as ask:
            cold = ask("begin")
        # First, while there is room, because it briefly holds the weights twice.
        theirs = None
        if reference:
            theirs = stack.enter_context(_rival(reference, case, cold))
            say("filling the cache of the PyTorch code")
            theirs("fill")
        ours = stack.enter_context(measuring(own.measure, case, frames, environment=environment))
        begun = ours("begin")
        begun["settings"] |= ours("fill")
        say(f"{frames} frames")
        samples, rival_samples = [], []
        for _ in range(frames):
            samples.append(ours("frame"))
            if theirs:
                rival_samples.append(theirs("frame"))
        finished = ours("finish")
        seconds = {**begun["seconds"], **_percentiles(samples), "first_frame_cold": cold["seconds"]["first_frame"]}
        # The stages' work is that of a step, which processes one frame of each stream.
        floor = sum(stage["floor"] for stage in finished["stages"].values())
        result = {**begun, **finished, "seconds": seconds, "samples": samples, "floor": floor}
        if theirs:
            memory = theirs("finish")
            result["reference"] = {"seconds": _percentiles(rival_samples), "samples": rival_samples, "memory": memory}
        return result


def _rival(clone: Path, case: Case, begun: dict[str, Any]) -> AbstractContextManager[Callable[[str], Any]]:
    """The PyTorch code in a process of its own, with our precision and device."""
    from ivggt_jax.bench import rival

    case = replace(case, precision=begun["settings"]["precision"])
    gpu = begun["machine"]["platform"] == "gpu"
    return measuring(rival.measure, clone, case, gpu, environment={"JAX_PLATFORMS": "cpu"})


def _percentiles(samples: list[float]) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(samples, q)) for q in (50, 95)}


def _number(text: str, value: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"--sweep {text}: {value!r} is not a whole number")
    return int(value)


if __name__ == "__main__":
    main()
