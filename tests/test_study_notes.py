"""What the memory study says of cells with which nothing can be compared. Nothing is measured: the numbers are made up."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ivggt_jax import Model
from ivggt_jax.evaluate import study
from ivggt_jax.evaluate.__main__ import main
from ivggt_jax.evaluate.options import ModelOptions

NUMBERS = dict.fromkeys(
    ("position_error", "path_error_percent", "rotation_error_degrees", "scale_drift", "depth_error",
     "constant_depth_error", "milliseconds", "state_megabytes"), 0.5,
)  # fmt: skip
CURVES = {name: [0.5] for name in ("position error, all frames so far", "depth error (AbsRel)", "time per frame (ms)")}


def numbers(records: object, lengths: tuple[int, ...]) -> dict[str, Any]:
    return {"measures": {str(n): {"loop-0": NUMBERS} for n in lengths}, "curves": {"loop-0": CURVES}, "clipped": 0}


@pytest.fixture
def said(tiny: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the study on one walk of twenty frames, three of which fit a layer, and returns what it says."""
    monkeypatch.setattr(study, "_records", lambda *_: {})
    monkeypatch.setattr(study, "_numbers", numbers)
    monkeypatch.setattr(ModelOptions, "load", lambda _: tiny)
    monkeypatch.setattr(study, "Walk", lambda route, seed, *_: SimpleNamespace(name=f"{route}-{seed}"))
    always = ("study", "--budgets", "3", "--seeds", "0")

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            main([*always, *arguments])
        assert left.value.code == 0
        return capsys.readouterr().err

    return run


def test_a_cell_alone_says_what_it_would_be_compared_with(said: Callable[..., str], tmp_path: Path) -> None:
    fresh, words = (
        ("--lengths", "20", "--out", str(tmp_path / "out")),
        "no differences where there is no cell 'diversity, 3 frames'",
    )
    assert words in said(*fresh, "--only", "frame, 3 frames")
    assert words not in said(*fresh, "--only", "diversity, 3 frames")
    assert words not in said(*fresh, "--only", "no anchor"), "what was kept is compared with"


def test_cells_of_other_settings_are_named(said: Callable[..., str], tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    said(*out, "--lengths", "20", "--only", "diversity, 3 frames", "offline")
    text = said(*out, "--lengths", "30", "--only", "frame, 3 frames")
    assert "cells of other settings (lengths, cache) are left out of the tables: offline; diversity, 3 frames\n" in text
