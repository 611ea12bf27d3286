"""The results of the memory study, as Markdown tables and plots for a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ivggt_jax.evaluate.plots import line_plot
from ivggt_jax.evaluate.records import WINDOW
from ivggt_jax.evaluate.walks import CHUNK
from ivggt_jax.writers.files import replacing

ERROR = "position error, all frames so far"
DEPTH = "depth error (AbsRel)"
TIME = "time per frame (ms)"
PLOTS = {
    "drift_by_place": (ERROR, ("diversity", "segment", "local_global", "random", "unbounded")),
    "drift_by_content": (ERROR, ("diversity", "frame", "residual", "attention", "unbounded")),
    "depth": (DEPTH, ("diversity", "segment", "attention", "unbounded")),
    "time": (TIME, ("diversity", "attention", "unbounded")),
}
"""File name → the measure drawn over the frame number, and the policies at the smallest budget to draw."""
SMOOTHED = 10
"""Points of a depth or time curve that are averaged."""
_STYLE = "<style>text{font:11px system-ui,sans-serif}.frame{fill:none;stroke:#bbb}</style>"

Result = Mapping[str, Any]


def write_study(out: Path, results: Mapping[str, Result], smallest: int) -> None:
    """Write `tables.md` and the plots whose cells were measured into a folder; results are by cell name."""
    texts = {"tables.md": tables(results, smallest)}
    for name, (curve, policies) in PLOTS.items():
        cells = {policy: results.get(_cell_name(policy, smallest)) for policy in policies}
        drawn = {policy: _mean_curve(result, curve) for policy, result in cells.items() if result is not None}
        if drawn:
            texts[f"{name}.svg"] = _standalone(line_plot(drawn, "frame", curve))
    for name, text in texts.items():
        with replacing(out / name) as file:
            file.write(text.encode())


def tables(results: Mapping[str, Result], smallest: int) -> str:
    """A Markdown table for each group of cells; numbers are means over the streams, with errors at several lengths.

    Every cell is compared, stream by stream, with the `diversity` cell of its table. Cells that change an option or have submaps
    are compared with that at the smallest budget, which is the first row of their table.
    """
    baseline = _cell_name("diversity", smallest)
    groups = _groups(results)
    for group, names in groups.items():
        if group.startswith(("options", "maps")) and baseline in results:
            names.insert(0, baseline)
    first = next(iter(results.values()))
    walks, lengths = first["settings"]["walks"], first["settings"]["lengths"]
    height, width = first["settings"]["size"]
    parts = [
        f"Means over {len(walks)} streams ({', '.join(walks)}) of {height}×{width} pixels. Position: ATE after Sim3 over the "
        f"spread of the true path, of the first so many frames; path: ATE of every {WINDOW} frames alone, in % of their "
        f"length; depth: AbsRel after one scale for every {CHUNK} frames (the best constant depth's is "
        f"{_constant(results)}), and the standard deviation of that scale's logarithm. Δ: difference from diversity in the same "
        f"stream (of the same budget, else of {smallest} frames), its mean and standard error. Time: milliseconds a frame, on "
        f"{first['settings']['device']}. Memory: megabytes of a stream's state."
    ]
    positions = [f"position {n}" for n in lengths]
    positions.insert(1, f"Δ position {lengths[0]}")
    header = [*positions, "rotation °", "path %", "Δ path %", "depth", "Δ depth", "scale drift", "time", "memory"]
    for group, names in groups.items():
        other = results.get(_compared_with(names, smallest))
        rows = [[_label(name, results[name], lengths), *_row(results[name], other, lengths)] for name in names]
        lines = [["", *header], ["---", *["---:"] * len(header)], *rows]
        parts.append(f"### {group}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def not_compared(results: Mapping[str, Result], smallest: int) -> list[str]:
    """Names of missing cells with which results should be compared."""
    wanted = [_compared_with(names, smallest) for names in _groups(results).values()]
    return [name for name in dict.fromkeys(wanted) if name not in results]


def _groups(results: Mapping[str, Result]) -> dict[str, list[str]]:
    """Names of the cells of each table."""
    groups: dict[str, list[str]] = {}
    for name, result in results.items():
        groups.setdefault(result["group"], []).append(name)
    return groups


def _compared_with(names: list[str], smallest: int) -> str:
    """The cell that a table's cells are compared with: its `diversity` cell, else that at the smallest budget."""
    return next((name for name in names if name.startswith("diversity")), _cell_name("diversity", smallest))


def _label(name: str, result: Result, lengths: list[int]) -> str:
    """The cell's name, with the length of its streams if they were shorter than the others'."""
    longest = max(map(int, result["measures"]))
    return name if longest == lengths[-1] else f"{name}, {longest} frames"


def _row(result: Result, other: Result | None, lengths: list[int]) -> list[str]:
    known, others = result["measures"], (other or result)["measures"]
    longest = max(known, key=int)
    last, last_other = known[longest], others[longest]
    first, *positions = (known.get(str(n), {}) for n in lengths)
    return [
        _mean(first, "position_error", 3),
        _difference(first, others.get(str(lengths[0]), {}), "position_error", 3),
        *(_mean(numbers, "position_error", 3) for numbers in positions),
        _mean(last, "rotation_error_degrees", 1),
        _mean(last, "path_error_percent", 2),
        _difference(last, last_other, "path_error_percent", 2),
        _mean(last, "depth_error", 4),
        _difference(last, last_other, "depth_error", 4),
        _mean(last, "scale_drift", 3),
        _mean(last, "milliseconds", 1),
        _mean(last, "state_megabytes", 1),
    ]


def _constant(results: Mapping[str, Result]) -> str:
    """The error of the best constant depth over the longest streams."""
    measured = [(max(map(int, result["measures"])), result) for result in results.values()]
    length, result = max(measured, key=lambda pair: pair[0])
    return _mean(result["measures"][str(length)], "constant_depth_error", 4)


def _mean(by_walk: Mapping[str, Mapping[str, float | None]], measure: str, digits: int) -> str:
    """Mean over the walks; a dash if nothing was measured or a prediction was not finite."""
    values = [numbers[measure] for numbers in by_walk.values()]
    known = [value for value in values if value is not None and np.isfinite(value)]
    return f"{np.mean(known):.{digits}f}" if known and len(known) == len(values) else "–"


def _difference(by_walk: Mapping[str, Any], others: Mapping[str, Any], measure: str, digits: int) -> str:
    """Difference in a measure, walk by walk: mean ± standard error; a dash for equal values, a single walk or no finite value."""
    pairs = [(numbers[measure], others[walk][measure]) for walk, numbers in by_walk.items()]
    if by_walk is others or len(pairs) < 2 or not all(x is not None and np.isfinite(x) for pair in pairs for x in pair):
        return "–"
    differences = np.subtract(*np.transpose(pairs))
    error = differences.std(ddof=1) / np.sqrt(len(pairs))
    return f"{differences.mean():+.{digits}f} ± {error:.{digits}f}"


def _mean_curve(result: Result, name: str) -> np.ndarray:
    """A curve over frames, averaged over the walks; a moving average unless it is a measure of all frames so far."""
    values = np.array([curves[name] for curves in result["curves"].values()], np.float64).mean(axis=0)
    if name != ERROR:
        known = np.isfinite(values)
        sums, counts = np.cumsum(np.where(known, values, 0)), np.cumsum(known)
        for total in (sums, counts):
            total[SMOOTHED:] -= total[:-SMOOTHED].copy()
        values = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return np.repeat(values, CHUNK)


def _cell_name(policy: str, smallest: int) -> str:
    return policy if policy == "unbounded" else f"{policy}, {smallest} frames"


def _standalone(svg: str) -> str:
    """The plot as a standalone file."""
    opening, rest = svg.split(">", 1)
    return (
        f'{opening} xmlns="http://www.w3.org/2000/svg">{_STYLE}<rect width="100%" height="100%" fill="#fff"/>{rest}\n'
    )
