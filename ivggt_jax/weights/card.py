"""A model card for the Hub, from nothing but the checkpoint and the record of its training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ivggt_jax.disk.strict_json import JsonError, parse_json
from ivggt_jax.weights.checkpoint import Description
from ivggt_jax.weights.hub import is_name

MEASURED = {
    "abs_rel": "depth: mean relative error",
    "constant_abs_rel": "the same of the best constant depth, to compare",
    "metric_abs_rel": "depth in a sensor's metres: mean relative error",
    "position_error": "camera positions: error with depth's scale, over the path's length",
    "path_error": "camera path: error after alignment (ATE) over its length",
    "line_path_error": "the same of a straight line with equal steps, to compare",
    "rotation_error": "rotation after alignment: mean error, degrees",
    "step_error": "from frame to frame: error over the mean step (RPE)",
    "step_rotation_error": "from frame to frame: rotation, degrees",
    "field_of_view_error": "horizontal field of view: mean error, degrees",
    "point_error": "points: mean distance over the scene's",
    "motion_error": "what moves: 1 less the overlap",
    "error": "sum by which the best student is chosen",
}
"""Names of evaluation measures in words; others keep their names."""


def model_card(
    name: str, licence: str, description: Description, trained: Mapping[str, Any] | None, revision: str | None = None
) -> str:
    """The card, as Markdown with the Hub's header.

    name: owner/name on the Hub; licence: the Hub's identifier; trained: from `training_record`; revision: a branch, None for the
    main one.
    """
    address = f"{name}@{revision}" if revision else name
    config, source = description.config, description.source
    network = f"{config.encoder_depth} encoder layers, {config.depth} pairs of blocks, {config.width} wide, {config.heads} heads"
    lines = [
        *(
            "---",
            f"license: {licence}",
            "library_name: ivggt_jax",
            "tags: [vggt, jax, depth-estimation, camera-pose]",
            "---",
        ),
        *("", f"# {name.partition('/')[2]}", ""),
        "Camera poses and depth from video, frame by frame in constant memory. Weights for `ivggt_jax`:",
        *("", "```bash", f"ivggt my_video.mp4 --checkpoint {address}", "```", ""),
        *("```python", "import ivggt_jax", f'model = ivggt_jax.load("{address}")', "```", ""),
        *("| | |", "|---|---|", f"| heads | {', '.join(config.predicts)} |"),
        f"| network | {network} |",
        f"| parameters | {description.parameters:,}, trunk in {description.dtype} |",
        f"| image size | {config.image_size} pixels across, patches of {config.patch_size} |",
    ]
    if trained is not None:
        lines.append(f"| attention | {trained['mode']}{', for streams' if trained['mode'] == 'causal' else ''} |")
    if source and source.licence:
        lines += ["", f"It goes back to weights under licences of their own: {source.licence}."]
    return "\n".join([*lines, *_training(trained), ""])


def training_record(checkpoint: Path) -> dict[str, Any] | None:
    """How a student was trained: `mode`, `options` by name, and `evaluation`, its own or None.

    checkpoint: the folder best/ or student/ of a run. Returns None if the parent folder is not a run of `ivggt train`.
    """
    run = checkpoint.resolve().parent
    try:
        record = parse_json((run / "config.json").read_bytes(), f"{run / 'config.json'}")["run"]
        step, optimizer = record["step"], record["step"]["optimizer"]
        clips = record["recorded" if record["data"] else "synthetic"]
        options = {
            "begun from": _public(record["student"]),
            "teacher": _public(record["teacher"])
            if step["loss"]["distillation_weight"] and record["teacher"]
            else None,
            "steps": record["steps"],
            "clips in a batch": clips["batch_size"],
            "frames in a clip": _span(clips["frames"]),
            "data": ", ".join(_data_names(record["data"])),
            "learning rate": optimizer["learning_rate"],
            "heads": ", ".join(step["heads"]),
            "seed": record["seed"],
        }
        evaluations = _evaluations(run / "metrics.jsonl")
    except (OSError, JsonError, KeyError, TypeError):
        return None
    finite = [entry for entry in evaluations if isinstance(entry.get("error"), float)]
    evaluation = evaluations[-1] if evaluations else None
    if checkpoint.name == "best" and finite:
        evaluation = min(finite, key=lambda entry: float(entry["error"]))
    kept = {name: value for name, value in options.items() if value is not None}
    return {"mode": step["mode"], "options": kept, "evaluation": evaluation}


def _training(trained: Mapping[str, Any] | None) -> list[str]:
    """Lines on how it was trained and what it achieved."""
    if trained is None:
        return []
    lines = ["", "## Training", "", "By `ivggt train`:", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in trained["options"].items()]
    if evaluation := trained["evaluation"]:
        lines += ["", "## What it reached", "", f"On clips that were held out, after {evaluation['step']} steps:", ""]
        lines += ["| | |", "|---|---|"]
        for name, value in evaluation.items():
            if name not in ("step", "split") and isinstance(value, float):
                lines.append(f"| {MEASURED.get(name, name.replace('_', ' '))} | {value:.4g} |")
    return lines


def _evaluations(path: Path) -> list[dict[str, Any]]:
    """A run's evaluations, in order; invalid lines, such as one cut short by a kill, are left out."""
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            entry = parse_json(line, f"{path}")
        except JsonError:
            continue
        if entry.get("split") == "evaluation" and isinstance(entry.get("step"), int):
            found.append(entry)
    return found


def _data_names(data: list[str]) -> list[str]:
    """Names of a run's data sets, given as dataset=folder[:weight] or a folder; the user's paths are kept private."""
    named = [entry.partition("=")[0] if "=" in entry else "own footage" for entry in data]
    return list(dict.fromkeys(named)) or ["synthetic scenes"]


def _public(checkpoint: str) -> str:
    """A checkpoint's name, without the folders of its path."""
    return checkpoint if is_name(checkpoint) else Path(checkpoint).name


def _span(frames: object) -> object:
    """A number of frames, or a range."""
    return " to ".join(dict.fromkeys(map(str, frames))) if isinstance(frames, list) else frames
