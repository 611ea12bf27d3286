"""The measurements as Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ivggt_jax.bench.flat import Window

MEBIBYTE = 1 << 20


def machine_line(machine: Mapping[str, Any]) -> str:
    """A description of the machine in one line."""
    return "{device} ({platform}, {processor}, {threads} threads), JAX {jax}, Python {python}".format(**machine)


def result_tables(result: Mapping[str, Any]) -> str:
    """All tables of one case."""
    return "\n\n".join([_title(result), _whole(result), _stages(result)])


def flat_table(first: Window, last: Window) -> str:
    """Two windows of a long run and their ratios."""
    both = first, last
    rows = [
        ["ms/frame, median", *(_milliseconds(window.seconds) for window in both), _ratio(last.seconds, first.seconds)],
        ["ms/frame, mean", *(_milliseconds(window.mean) for window in both), _ratio(last.mean, first.mean)],
        ["host memory", *(_memory(window.host) for window in both), _ratio(last.host, first.host)],
        ["bytes of the stream", *(f"{window.stream:,}" for window in both), _ratio(last.stream, first.stream)],
    ]
    if first.device and last.device:
        rows.append(["device memory", _memory(first.device), _memory(last.device), _ratio(last.device, first.device)])
    return _table(["", *(f"frames {a:,} to {b:,}" for a, b in (first.frames, last.frames)), "ratio"], rows)


def _title(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    heads = ", ".join(settings["heads"]) or "no heads"
    return (
        f"**{settings['checkpoint'] or settings['model']}, {settings['width']}×{settings['height']}, "
        f"batch {settings['batch']}, chunk {settings['chunk']}, {settings['frames_per_step']} to a pass, "
        f"{settings['precision']}, cache {settings['cache_dtype'] or settings['precision']}, {heads}; "
        f"budget {settings['budget']:,}, {settings['live_tokens']:,} tokens live in a layer, "
        f"buffers {_memory(settings['state_bytes'])}**"
    )


def _whole(result: Mapping[str, Any]) -> str:
    """Rows for the whole step, with the PyTorch code's numbers if it ran."""
    own, rival = result["seconds"], result.get("reference")
    rows = [
        ["ms/frame, median", *_pair(own["p50"], rival and rival["seconds"]["p50"], _milliseconds)],
        ["ms/frame, 95th percentile", *_pair(own["p95"], rival and rival["seconds"]["p95"], _milliseconds)],
        ["peak host memory", *_pair(result["memory"]["host"], rival and rival["memory"]["host"], _memory)],
    ]
    if "device" in result["memory"]:
        theirs = rival and rival["memory"]["device"]
        rows.append(["peak device memory", *_pair(result["memory"]["device"], theirs, _memory)])
    rows += [
        ["frames/s, one call in flight", f"{result['frames_per_second']:.2f}"],
        ["first frame, compiled for it", f"{own['first_frame_cold']:.1f} s"],
        ["first frame, from the compilation cache", f"{own['first_frame']:.1f} s"],
        ["floor of ms/frame, one at a time", f"{1000 * result['floor']:.2f}"],
        ["ms/frame over its floor", _ratio(own["p50"], result["floor"])],
    ]
    return _table(["", "this", "PyTorch", "ratio"] if rival else ["", "this"], rows)


def _stages(result: Mapping[str, Any]) -> str:
    """Each stage alone, with the least it must compute and move."""
    rows = [
        [
            name, _milliseconds(stage["seconds"]), f"{stage['operations'] / 1e9:.1f}", f"{stage['bytes'] / 1e6:.0f}",
            _milliseconds(stage["floor"]), _ratio(stage["seconds"], stage["floor"]),
        ]
        for name, stage in result["stages"].items()
    ]  # fmt: skip
    rates = result["rates"]
    measured = (
        f"Floor: the larger of operations over {rates['trunk'] / 1e9:,.0f} GFLOP/s (heads {rates['float32'] / 1e9:,.0f}) and "
        f"bytes over {rates['bandwidth'] / 1e9:,.0f} GB/s, measured in the same run."
    )
    header = ["one step, stages alone", "ms", "GFLOP", "MB", "floor, ms", "over its floor"]
    return f"{_table(header, rows)}\n\n{measured}"


def _pair(own: float, rival: float | None, show: Any) -> list[str]:
    return [show(own)] if rival is None else [show(own), show(rival), _ratio(own, rival)]


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"


def _memory(size: float) -> str:
    return f"{size / MEBIBYTE:,.0f} MiB"


def _ratio(value: float, over: float) -> str:
    return f"{value / over:.2f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; short rows are padded."""
    lines = [header, ["---"] * len(header), *([*row, *[""] * (len(header) - len(row))] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
