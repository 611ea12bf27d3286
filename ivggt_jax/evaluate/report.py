"""The report of an evaluation: a JSON file per sequence, a text table, and one page with plots."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ivggt_jax.disk.strict_json import JsonError, read_json
from ivggt_jax.evaluate.datasets.sequence import Skipped
from ivggt_jax.evaluate.depth import DepthEvaluation
from ivggt_jax.evaluate.plots import line_plot, path_plot
from ivggt_jax.evaluate.reconstruction import ReconstructionEvaluation
from ivggt_jax.evaluate.trajectory import TrajectoryErrors
from ivggt_jax.writers.files import replacing

Settings = Mapping[str, str | int | float]
"""What numbers depend on, by name."""
RECORD = {"name", "settings", "measures", "weight", "problems", "curves"}
"""Names in a sequence's file."""
_STYLE = """body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;color:#222}
table{border-collapse:collapse}td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}svg text{font:11px system-ui,sans-serif}
.frame{fill:none;stroke:#bbb}.problem{color:#a33}figure{display:inline-block;margin:.5em}"""


@dataclass(frozen=True, eq=False)
class SequenceReport:
    """Measurements on one sequence."""

    name: str
    settings: Settings
    """What the numbers depend on: the alignment and its result, the model, and how it was run."""
    measures: dict[str, float]
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    """Measures frame by frame, float [S]."""
    weight: float = 1.0
    """Weight in the weighted mean over sequences: pixels, for depth."""
    figures: dict[str, str] = field(default_factory=dict)
    """Caption → SVG or HTML image, only for the page."""
    problems: tuple[str, ...] = ()

    def under(self, settings: Settings) -> "SequenceReport":
        """The same report with further settings."""
        return replace(self, settings={**self.settings, **settings})


def report_trajectory(
    name: str, errors: TrajectoryErrors, truth: np.ndarray, problems: Sequence[str] = ()
) -> SequenceReport:
    """The report of a trajectory; truth [S, 3, 4] is drawn with the aligned prediction."""
    curves = {"translation error": errors.translation, "rotation error (degrees)": errors.rotation}
    return SequenceReport(
        name=name,
        settings={"alignment": errors.alignment, "scale": errors.truth_from_prediction.scale},
        measures=errors.summary(),
        curves=curves,
        figures={"camera path": path_plot(truth[:, :3, 3], errors.aligned[..., 3])}
        | {key: line_plot({key: values}, "frame", key) for key, values in curves.items()},
        problems=tuple(problems),
    )


def report_depth(
    name: str, evaluation: DepthEvaluation, maps: Mapping[str, str] | None = None, problems: Sequence[str] = ()
) -> SequenceReport:
    """The report of depth; `maps` are images of single frames (`plots.depth_maps`) by caption."""
    measures = {key: float(value) for key, value in vars(evaluation.errors).items() if key != "pixels"}
    curves = {
        "AbsRel": np.array([frame.abs_rel for frame in evaluation.frames]),
        "RMSE": np.array([frame.rmse for frame in evaluation.frames]),
    }
    return SequenceReport(
        name=name,
        settings={"alignment": evaluation.alignment, "scale": evaluation.scale, "shift": evaluation.shift},
        measures=measures,
        curves=curves,
        weight=float(evaluation.errors.pixels),
        figures={key: line_plot({key: values}, "frame", key) for key, values in curves.items()} | dict(maps or {}),
        problems=tuple(problems),
    )


def report_reconstruction(
    name: str, evaluation: ReconstructionEvaluation, problems: Sequence[str] = ()
) -> SequenceReport:
    """The report of a reconstruction."""
    curves = {"distance between corresponding points": np.array(evaluation.frames)} if evaluation.frames else {}
    settings = {
        "alignment": evaluation.alignment,
        "scale": evaluation.truth_from_prediction.scale,
        "predicted points": evaluation.predicted_points,
        "true points": evaluation.true_points,
    }
    if evaluation.voxel is not None:
        settings["voxel"] = evaluation.voxel
    return SequenceReport(
        name=name,
        settings=settings,
        measures=evaluation.errors.summary(),
        curves=curves,
        figures={key: line_plot({key: values}, "frame", key) for key, values in curves.items()},
        problems=tuple(problems),
    )


def summary_table(title: str, reports: Sequence[SequenceReport], skipped: Iterable[Skipped] = ()) -> str:
    """The measures of all sequences as text: a line each, their mean, and the weighted mean if weights differ.

    The alignments precede the numbers, which mean nothing without them. Raises ValueError without any report.
    """
    header, rows = _rows(reports)
    cells = [header, *([name, *(f"{value:.4f}" for value in values)] for name, values in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [f"{title} · alignment {_alignments(reports)}"]
    for row in cells:
        pairs = zip(row, widths, strict=True)
        lines.append("  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(pairs)))
    lines += [f"skipped {member.name}: {member.reason}" for member in skipped]
    lines += [f"left out of {report.name}: {problem}" for report in reports for problem in report.problems]
    return "\n".join(lines)


def write_report(
    folder: Path, title: str, reports: Sequence[SequenceReport], skipped: Sequence[Skipped] = ()
) -> list[Path]:
    """Write `<sequence>.json` for each sequence, `summary.txt` and `report.html` into a folder. Returns their paths.

    The page needs no network and no other file. Each file is replaced atomically, and the sequences' files of an earlier report in
    the folder are removed. Raises ValueError without any report, or when two names give one file; WriteError when the disk is full.
    """
    texts = {
        "summary.txt": summary_table(title, reports, skipped) + "\n",
        "report.html": _page(title, reports, skipped),
    }
    for report in reports:
        name = f"{report.name.replace('/', '_')}.json"
        if name in texts:
            raise ValueError(f"two sequences would be written to {name}")
        texts[name] = json.dumps(_record(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text.encode())
    for path in folder.glob("*.json"):
        if path.name not in texts and _is_record(path):
            path.unlink()
    return [folder / name for name in texts]


def _rows(reports: Sequence[SequenceReport]) -> tuple[list[str], list[tuple[str, list[float]]]]:
    """The table's header, and its rows with the means last."""
    if not reports:
        raise ValueError("there is nothing to report: no sequence was evaluated")
    names = list(dict.fromkeys(name for report in reports for name in report.measures))
    rows = [(report.name, [report.measures.get(name, math.nan) for name in names]) for report in reports]
    values = np.array([row for _, row in rows])
    weights = np.array([report.weight for report in reports])
    if len(reports) > 1:
        rows.append(("mean", _means(values, np.ones(len(reports)))))
        if np.ptp(weights):
            rows.append(("mean, weighted by pixels", _means(values, weights)))
    return ["sequence", *names], rows


def _means(values: np.ndarray, weights: np.ndarray) -> list[float]:
    """Weighted means of columns [report,measure] over the reports that have the measure; NaN where none has."""
    known = ~np.isnan(values)
    total = weights @ known
    means = weights @ np.where(known, values, 0) / np.where(total > 0, total, 1)
    return np.where(total > 0, means, np.nan).tolist()


def _alignments(reports: Sequence[SequenceReport]) -> str:
    return ", ".join(dict.fromkeys(str(report.settings["alignment"]) for report in reports))


def _record(report: SequenceReport) -> dict[str, object]:
    """A report for JSON; non-finite values become null."""
    return {
        "name": report.name,
        "settings": {key: _finite(value) for key, value in report.settings.items()},
        "measures": {key: _finite(value) for key, value in report.measures.items()},
        "weight": report.weight,
        "problems": list(report.problems),
        "curves": {key: [_finite(float(value)) for value in values] for key, values in report.curves.items()},
    }


def _is_record(path: Path) -> bool:
    """Whether a file is a sequence's, of this or an earlier run."""
    try:
        return read_json(path).keys() == RECORD
    except JsonError:
        return False


def _finite(value: str | int | float) -> str | int | float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _page(title: str, reports: Sequence[SequenceReport], skipped: Sequence[Skipped]) -> str:
    header, rows = _rows(reports)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{value:.4f}</td>' for value in values)}</tr>"
        for name, values in rows
    )
    missing = "".join(f'<p class="problem">skipped {html.escape(f"{m.name}: {m.reason}")}</p>' for m in skipped)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><p>alignment: {html.escape(_alignments(reports))}</p>"
        f"<table><tr>{head}</tr>{body}</table>{missing}{''.join(map(_section, reports))}</html>\n"
    )


def _section(report: SequenceReport) -> str:
    settings = ", ".join(
        f"{key} {value:.6g}" if isinstance(value, float) else f"{key} {value}" for key, value in report.settings.items()
    )
    figures = "".join(
        f"<figure>{content}<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, content in report.figures.items()
    )
    problems = "".join(f'<p class="problem">{html.escape(problem)}</p>' for problem in report.problems)
    return f"<h2>{html.escape(report.name)}</h2><p>{html.escape(settings)}</p>{problems}{figures}\n"
