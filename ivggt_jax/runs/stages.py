"""Expected duration of a stage, from earlier times on this machine, which are stored next to the compiled programs.

Without earlier times there is no expectation. The first time, which includes downloading or compiling, says little about later
ones, so both are kept. If only other sizes of the same model were compiled, the newest of these is reported.
"""

import dataclasses
import hashlib
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from ivggt_jax.disk.beside import written_beside
from ivggt_jax.disk.strict_json import JsonError, parse_json
from ivggt_jax.runs.command import compiled_folder, say
from ivggt_jax.streaming.state import StreamState

FILE = "times.json"
MOST = 200
"""Number of things remembered, the newest ones."""


@dataclasses.dataclass(frozen=True)
class Thing:
    """A thing that takes time, the first time and later ones."""

    key: str
    """Equal for things that take the same time: on this machine, with this release of JAX."""
    kind: str
    """Equal for things that may be compared with it."""
    name: str
    """Name for people."""


def loading(checkpoint: str, precision: str) -> Thing:
    """Loading a checkpoint."""
    key = _digest("loading", checkpoint, precision)
    return Thing(key, key, checkpoint)


def first_frame(state: StreamState) -> Thing:
    """Compiling for a stream and computing its first frame."""
    settings = dataclasses.asdict(state.settings)
    kind = _digest("first frame", settings["model"])
    return Thing(_digest(settings, state.camera is None), kind, f"{state.settings.width}×{state.settings.height}")


def expected(thing: Thing) -> str:
    """The expected duration in brackets, after a space; empty if nothing similar was done here."""
    known = _read()
    if entry := known.get(thing.key):
        if entry["again"] is not None:
            return f" ({_about(entry['again'])}, as last time)"
        return f" (the first time took {_about(entry['first'])})"
    alike = [entry for entry in known.values() if entry["kind"] == thing.kind]
    if not alike:
        return ""
    other = "the same size with other settings" if alike[-1]["name"] == thing.name else "another size"
    return f" ({other} took {_about(alike[-1]['first'])})"


def took(thing: Thing, seconds: float) -> None:
    """Remember the duration; ignored if it cannot be written."""
    known = _read()
    before = known.pop(thing.key, None)
    times = {"first": seconds, "again": None} if before is None else {"first": before["first"], "again": seconds}
    known[thing.key] = {"kind": thing.kind, "name": thing.name, **times}
    with suppress(OSError, RuntimeError), written_beside(compiled_folder() / FILE) as part:
        part.write_text(json.dumps(dict(list(known.items())[-MOST:])), encoding="utf-8")


def announce(words: str, thing: Thing) -> None:
    """Print what begins, and how long it may take."""
    say(f"{words}{expected(thing)}")


@contextmanager
def stage(words: str, thing: Thing) -> Iterator[None]:
    """Print what begins, and how long it may take; then remember the duration of the block."""
    announce(words, thing)
    began = time.perf_counter()
    yield
    took(thing, time.perf_counter() - began)


def _read() -> dict[str, dict[str, Any]]:
    """The remembered times, the newest last; empty if the file is damaged."""
    try:
        path: Path = compiled_folder() / FILE
        known = parse_json(path.read_bytes(), f"{path}")
        for entry in known.values():
            float(entry["first"]), float(entry["again"] or 0), str(entry["kind"]), str(entry["name"])
    except (OSError, RuntimeError, JsonError, TypeError, KeyError, ValueError):
        return {}
    return known


def _about(seconds: float) -> str:
    """A duration in words."""
    if seconds < 1:
        return "less than a second"
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} minutes"


def _digest(*parts: object) -> str:
    """A short hash of these things on this machine."""
    here = (platform.node(), jax.__version__, jax.devices()[0].device_kind)
    text = json.dumps((here, parts), default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
