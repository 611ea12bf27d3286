"""The report of a run: `run.json`, and the messages at its end."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ivggt_jax.inference.earlier import for_records
from ivggt_jax.inference.options import InferConfig
from ivggt_jax.options.words import counted
from ivggt_jax.runs import output_folder
from ivggt_jax.runs.advice import next_steps
from ivggt_jax.runs.command import say
from ivggt_jax.runs.memory import peak_memory
from ivggt_jax.runs.parts import warn_of_run
from ivggt_jax.runs.run import Run
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.weights import loading
from ivggt_jax.writers.run_json import plain, recorded


def say_end(config: InferConfig, out: Path, run: Run) -> None:
    """Print what was written and how fast, what casts doubt on it, and what to do next."""
    names = ", ".join(output_folder.results(out))
    say(f"{counted(run.frames)} → {out}{f': {names}' if names else ''}{run.progress.summary()}")
    if run.frames:
        saved = "npz" in config.growing
        for line in next_steps(out, plain(for_records(config)), frames_saved=saved, shown=config.view):
            say(line)
    if (metric := _metric(config, run)) and not metric["frames_with_depth"]:
        say("warning: no frame's measured depth could be used, so results are right up to scale only (docs/sensors.md)")
    elif metric:
        used = f"measured depth of {metric['frames_with_depth']} of {counted(run.frames)} was used"
        say(f"lengths are metres from frame {metric['from_frame']} on: {used}")
    if run.state.settings.submaps and (broken := warn_of_run(out)):
        say(f"warning: {broken}")
    if doubt := _doubt(run):
        say(f"warning: {doubt}")


def record(config: InferConfig, run: Run) -> dict[str, Any]:
    """The content of `run.json`."""
    lengths, state, settings = run.lengths, run.state, run.state.settings
    return {
        "versions": {name: version(name) for name in ("ivggt_jax", "jax", "flax")},
        "device": str(jax.devices()[0].device_kind),
        "settings": for_records(config),
        "model": {
            "checkpoint": config.checkpoint,
            "source": loading.identify(config.checkpoint),
            "config": run.model.config,
        },
        "cache": settings.cache,
        "submaps": settings.submaps,
        "camera": _camera(config, state),
        "metric": _metric(config, run),
        "moving_told_by": _moving_told_by(config, state),
        "input": {"height": settings.height, "width": settings.width, "tokens_per_frame": settings.tokens},
        "frames": run.frames,
        "milliseconds_per_frame": run.progress.percentiles(),
        "milliseconds_from_capture_to_pose": run.progress.latencies(),
        "peak_memory_bytes": peak_memory(),
        "stream_bytes": state.nbytes,
        "tokens_kept": {"total": int(lengths.sum()), "by_layer": lengths},
        # A step that failed, for example for lack of memory, has used up the state.
        "budgets_clipped": None if state.clipped.is_deleted() else int(state.clipped[0]),
        "tokens_dropped": None if state.dropped.is_deleted() else int(state.dropped[0]),
        "outputs": run.writers.record(),
        "failed": run.failed,
        "doubt": _doubt(run),
        "trust": run.writers.trust.record() if _refines(run) else None,
    }


def _refines(run: Run) -> bool:
    submaps = run.state.settings.submaps
    return submaps is not None and submaps.refine


def _doubt(run: Run) -> str | None:
    """Doubt about the geometry: first that the frames show too little, then that they do not confirm it."""
    return run.writers.evidence.doubt() or (run.writers.trust.doubt() if _refines(run) else None)


def _camera(config: InferConfig, state: StreamState) -> dict[str, Any] | None:
    """The calibrated camera and what the network predicted of it; None without a calibration."""
    if config.source.camera is None or state.focal is None or state.frame.is_deleted():
        return None
    size = np.array((state.settings.width, state.settings.height))
    known, mean = np.asarray(state.focal.length[0]), np.asarray(state.focal.mean[0])
    frames = int(state.focal.frames[0])

    def degrees(focal: np.ndarray) -> dict[str, float]:
        return dict(zip(("horizontal", "vertical"), np.degrees(2 * np.arctan(size / 2 / focal)).tolist(), strict=True))

    return {
        "calibration": config.source.camera,
        "field_of_view_degrees": degrees(known),
        "predicted_field_of_view_degrees": degrees(np.exp(mean)) if frames else None,
    }


def _moving_told_by(config: InferConfig, state: StreamState) -> str | None:
    """What detected moving pixels; None if they were kept."""
    if config.moving == "keep":
        return None
    return "the model's head" if "motion" in state.settings.heads else "depth and colours of earlier frames"


def _metric(config: InferConfig, run: Run) -> dict[str, Any] | None:
    """How the depth sensor determined the unit; None without one."""
    state = run.state
    if config.source.depth is None or state.map is None or state.frame.is_deleted():
        return None
    known = state.map.metric
    readings = int(known.readings[0])
    return {
        "unit": "metres" if readings else "unknown: no measured depth could be used",
        "from_frame": recorded(run.writers.record(), "submaps", "measured_from"),
        "frames_with_depth": readings,
        "relative_standard_deviation": float(known.deviation()[0]),
    }
