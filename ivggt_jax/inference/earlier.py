"""A run and an earlier one in its folder: what is resumed, which options must then be equal, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

from ivggt_jax.inference.options import InferConfig
from ivggt_jax.options.export import Output
from ivggt_jax.runs.advice import infer_command
from ivggt_jax.runs.command import say
from ivggt_jax.runs.output_folder import EarlierRun, describe
from ivggt_jax.runs.resume import Unfinished
from ivggt_jax.sources.source import full_name
from ivggt_jax.writers.run_json import plain

FREE_TO_CHANGE = ("out", "overwrite", "resume", "save_every", "split", "view", "port", "on_error", "share")
"""Options that a resumed run may change, because they do not decide what is written."""
GROUPS = ("source", "memory", "mapping", "align", "options")
"""Options that are groups of options."""


def to_resume(config: InferConfig, out: Path, earlier: EarlierRun | None) -> Unfinished | None:
    """The run to resume; None to start a new one. Raises ValueError when the folder holds a run and no option says what to do."""
    if earlier is None:
        if config.resume:
            say(f"{out} holds no run to resume: a new one begins")
        if config.overwrite and (found := describe(out)):
            say(f"{out} holds {found}: replaced")
        return None
    unfinished = earlier.unfinished
    if unfinished is None or not config.resume:
        way = "--resume goes on with it, " if unfinished else ""
        raise ValueError(f"{out} holds {earlier.description}; {way}--overwrite replaces it, --out DIR goes elsewhere")
    now, then = decisive_options(as_begun(config, unfinished.options)), unfinished.options
    if changed := _changed(now, {name: then.get(name) for name in now}):
        raise ValueError(
            f"{out} holds {earlier.description}, begun with {changed}: --overwrite begins again; this goes on: "
            f"{_continuing(config, out, then)}"
        )
    what = "resumed from there" if unfinished.frames else "nothing of it can be used, and it begins anew"
    say(f"{out} holds {earlier.description}: {what}")
    return unfinished


def is_done(config: InferConfig, out: Path, earlier: EarlierRun) -> bool:
    """Whether the folder holds the run to resume, already finished. Raises ValueError if that had other options, or failed."""
    if not (earlier.finished and config.resume and earlier.source in (None, plain(full_name(config.source.frames)))):
        return False
    if changed := changed_since(config, earlier.settings):
        raise ValueError(
            f"{out} holds {earlier.description}, made with {changed}: --overwrite begins again; `ivggt export` makes more of "
            "saved frames"
        )
    if earlier.failed:
        raise ValueError(
            f"{out} holds {earlier.description}, which failed at its end: {earlier.failed}; --overwrite begins again, "
            "`ivggt export` makes more of saved frames"
        )
    return True


def changed_since(config: InferConfig, settings: object) -> str:
    """How options differ from those of a finished run, by the `settings` in its `run.json`, for a message; empty if they do not."""
    then = _decisive(settings) if isinstance(settings, dict) else {}
    config = as_begun(config, then)
    return _changed(_decisive(plain(for_records(config))) | {"export": list(config.outputs)}, then)


def decisive_options(config: InferConfig) -> dict[str, Any]:
    """The options that decide what is written, by name, as in JSON."""
    return _decisive(plain(for_records(config))) | {"export": [*config.growing, *config.built]}


def _decisive(settings: dict[str, Any]) -> dict[str, Any]:
    """The same, from options as in `run.json`, where each group is a nested record."""
    options: dict[str, Any] = {}
    for name, value in settings.items():
        options |= value if name in GROUPS and isinstance(value, dict) else {name: value}
    return {name: value for name, value in options.items() if name not in FREE_TO_CHANGE}


def _continuing(config: InferConfig, out: Path, then: dict[str, Any]) -> str:
    """The command that goes on with a run that began with these options; outputs follow from the run."""
    frames = config.source.frames
    if then.get("frames") != plain(full_name(frames)):
        frames = str(then.get("frames"))
    return infer_command({**then, "export": None}, frames=frames, out=str(out), resume=True)


def _changed(now: dict[str, Any], then: dict[str, Any]) -> str:
    """The differences between two sets of options, for a message; empty if there are none."""
    return "; ".join(
        f"--{name.replace('_', '-')} {then[name]}, now {now[name]}"
        for name in now
        if name in then and now[name] != then[name]
    )


def as_begun(config: InferConfig, then: dict[str, Any]) -> InferConfig:
    """The options, with the outputs of the earlier run if they name none."""
    export = then.get("export")
    if config.export or not isinstance(export, list):
        return config
    known = tuple(name for name in export if name in get_args(Output))
    dtype = "float16" if then.get("frames_dtype") == "float16" else config.options.frames_dtype
    return dataclasses.replace(config, export=known, options=dataclasses.replace(config.options, frames_dtype=dtype))


def for_records(config: InferConfig) -> InferConfig:
    """The options, with the source's full name and without a password in it."""
    return dataclasses.replace(
        config, source=dataclasses.replace(config.source, frames=full_name(config.source.frames))
    )
