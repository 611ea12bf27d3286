"""The records of a run: a JSON line for every entry, pictures as PNG files, and both for TensorBoard if requested."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from ivggt_jax.disk.beside import written_beside
from ivggt_jax.disk.strict_json import JsonError, parse_json


class Metrics:
    """Writes metrics.jsonl and images/ in a run's folder; a context manager.

    When a run resumes, entries of steps after its checkpoint are dropped, so that none appears twice.
    """

    def __init__(self, folder: Path, step: int = 0, tensorboard: bool = False):
        """Open the files.

        step: of the checkpoint that the run continues from; 0 starts a new run. tensorboard: also write event files; raises
        ImportError when tensorboardX is not installed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._images = folder / "images"
        path = folder / "metrics.jsonl"
        self._kept = _entries_until(path, step) if path.exists() else []
        with written_beside(path) as part:
            part.write_text("".join(map(_line, self._kept)), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._board: Any = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(folder), purge_step=step + 1)

    def lowest(self, split: str, name: str) -> float:
        """The lowest value among the entries that existed when the run resumed; infinite if there was none."""
        values = [entry.get(name) for entry in self._kept if entry.get("split") == split]
        return min((value for value in values if isinstance(value, int | float)), default=np.inf)

    def write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Add one line: step, split ("train", "evaluation" …) and scalars by name; non-finite values become null."""
        scalars = {name: float(value) for name, value in values.items()}
        finite = {name: value if np.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(_line({"step": step, "split": split} | finite))
        if self._board:
            for name, value in scalars.items():
                self._board.add_scalar(f"{split}/{name}", value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Save a picture, uint8 [H,W,3], as images/name_step.png."""
        self._images.mkdir(exist_ok=True)
        Image.fromarray(image).save(self._images / f"{name}_{step:08d}.png")
        if self._board:
            self._board.add_image(name, image, step, dataformats="HWC")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board:
            self._board.close()


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _entries_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Entries of a metrics file up to a step; invalid lines, such as one cut short by a kill, are left out."""
    kept = []
    for line in path.read_bytes().splitlines():
        with suppress(JsonError):
            entry = parse_json(line, f"{path}")
            if isinstance(entry.get("step"), int) and entry["step"] <= step:
                kept.append(entry)
    return kept
