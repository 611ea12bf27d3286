"""Complete commands to suggest to the user, built from the options of a run."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ivggt_jax.options.words import nearest
from ivggt_jax.sources.config import is_live
from ivggt_jax.sources.folder import in_natural_order
from ivggt_jax.sources.source import full_name
from ivggt_jax.weights.hub import PUBLISHED
from ivggt_jax.writers.files import numbered
from ivggt_jax.writers.run_json import plain, read_run_json, recorded
from ivggt_jax.writers.saved_run import SavedRun

EXAMPLES = (("examples", "room", "frames"), ("examples", "walk.mp4"), ("examples", "street.mp4"))
"""Last parts of the paths of the examples for the demo model."""
REAL = "lch01/StreamVGGT"
"""Published weights of a streaming model."""
NAMED = 3
"""Number of runs named in a message."""
LEFT_OUT = ("overwrite", "resume", "view", "port", "frames_dtype", "share")
"""Options that do not affect the results, or that follow from others or from the machine."""


def comes_again(frames: str) -> bool:
    """Whether a source gives the same frames when read again; a camera or a named pipe does not."""
    return not is_live(frames) and not Path(frames).is_fifo()


def infer_command(settings: Mapping[str, Any], **changes: object) -> str:
    """The `infer` command for options as in `run.json`, without those at their default.

    changes: options with a different value.
    """
    from ivggt_jax.inference.options import InferConfig  # it imports this module
    from ivggt_jax.sources import SourceConfig

    usual = _flat(plain(InferConfig(source=SourceConfig(frames=""))))
    kept = {name: value for name, value in _flat(settings).items() if name in usual and name not in LEFT_OUT}
    options = {**kept, **changes}
    words = ["ivggt", str(options.pop("frames", ""))]
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{option}" if value else f"--no-{option}"] * (value != usual[name])
        elif value not in (None, [], usual[name]):
            words += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def saved_run(out: Path) -> SavedRun:
    """The run's saved frames.

    Raises FileNotFoundError if there are none, with the command that creates them, or with runs that are near.
    """
    try:
        return SavedRun(out)
    except FileNotFoundError as error:
        if problem := _no_run(out):
            raise FileNotFoundError(problem) from error
        settings = _settings(out)
        if not isinstance(frames := recorded(settings, "source", "frames"), str):
            raise
        export = recorded(settings, "export")
        where: dict[str, object] = {"out": f"{out}", "overwrite": True}
        if not comes_again(frames):
            where = {"out": f"{out}_with_frames"}
        command = infer_command(settings, **where, export=[*(export if isinstance(export, list) else ()), "npz"])
        raise FileNotFoundError(
            f"{out / 'frames'} holds no saved frames (*.npz); a run that keeps them: {command}"
        ) from error


def next_steps(out: Path, settings: Mapping[str, Any], *, frames_saved: bool, shown: bool) -> list[str]:
    """The two next commands to suggest after a run, a line each.

    settings: the run's options, as in `run.json`. shown: the viewer already shows the run.
    """
    view, export = (shlex.join(["ivggt", name, f"{out}"]) for name in ("view", "export"))
    if frames_saved:
        export += " --corrected" * bool(recorded(settings, "mapping", "loops"))
        look = f"{export} --to html" if shown else view
        return [f"look at it:  {look}", f"hand it on:  {export} --to colmap (or nerfstudio, glb, rrd, …)"]
    export_names = recorded(settings, "export")
    kept = [*(export_names if isinstance(export_names, list) else ()), "npz"]
    again = infer_command(settings, out=f"{out}_with_frames", export=kept)
    return [f"keep frames: {again}", f"look at it:  {view}_with_frames"]


def note_on_demo(settings: Mapping[str, Any]) -> str | None:
    """A note if the demo model is run on anything but the examples; otherwise None.

    settings: a run's options, as in `run.json`.
    """
    frames = str(recorded(settings, "source", "frames"))
    parts = Path(full_name(frames)).parts
    is_example = any(parts[-len(example) :] == example for example in EXAMPLES)
    if settings["checkpoint"] != "demo" or Path("demo").exists() or is_example:
        return None
    return (
        "NOTE: THE DEMO MODEL KNOWS RENDERED SCENES ONLY. On other pictures its geometry means little; for real ones "
        f"({PUBLISHED[REAL].licence}; downloads 5 GB): {infer_command(settings, checkpoint=REAL, overwrite=True)}"
    )


def _no_run(out: Path) -> str | None:
    """Why a path is not the folder of a run, with runs that are near; None if it may be one."""
    if not out.exists():
        name = nearest(out.name, (run.name for run in _runs_in(out.parent)))
        return f"{out}: there is no such folder" + ("" if name is None else f"; did you mean {out.parent / name}?")
    if not out.is_dir():
        return f"{out}: is a file; name the folder of a run"
    if _is_run(out) or not (runs := _runs_in(out)):
        return None
    named = ", ".join(map(str, runs[:NAMED])) + (", …" if len(runs) > NAMED else "")
    return f"{out} holds no run itself, but folders that do: {named}; name one of them"


def _runs_in(folder: Path) -> list[Path]:
    """The runs in a folder, in natural order."""
    try:
        return in_natural_order(filter(_is_run, folder.iterdir()))
    except OSError:
        return []


def _is_run(folder: Path) -> bool:
    """Whether a folder holds a run's record or its saved frames."""
    return (folder / "run.json").is_file() or bool(numbered(folder / "frames", ".npz"))


def _settings(out: Path) -> dict[str, Any]:
    """The options in a folder's `run.json`; empty if there are none."""
    try:
        settings = recorded(read_run_json(out), "settings")
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, including those in groups."""
    groups = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    flat = {name: value for name, value in settings.items() if name not in groups}
    return {name: value for group in groups.values() for name, value in group.items()} | flat
