"""What there is by name has its place in the docs: nothing that was added is left unsaid."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from ivggt_jax.evaluate.datasets import DATASETS as EVALUATED
from ivggt_jax.evaluate.walks import ROUTES
from ivggt_jax.memory.policies import POLICIES
from ivggt_jax.model.heads import HEADS
from ivggt_jax.options.export import FORMATS
from ivggt_jax.synthetic.scenes import Kind
from ivggt_jax.train.data.datasets import DATASETS as TRAINED
from ivggt_jax.train.losses import LossConfig
from ivggt_jax.train.presets import PRESETS

ROOT = Path(__file__).parents[1]
TABLES = {
    "README.md": FORMATS,
    "docs/memory.md": POLICIES,
    "docs/evaluation.md": (*EVALUATED, *ROUTES),
    "docs/synthetic.md": (*ROUTES, *get_args(Kind)),
    "docs/training.md": (
        *TRAINED,
        *(f"{objective} {name}" for objective, presets in PRESETS.items() for name in presets),
    ),
}
"""Page → what has a row in a table there, by what the row's first cell names."""


def first_cells(page: str) -> list[list[str]]:
    """What the first cell of every row names."""
    return [
        re.findall(r"`([^`]+)`", cell)
        for cell in re.findall(r"^\| ([^|]*) \|", (ROOT / page).read_text(), re.MULTILINE)
    ]


@pytest.mark.parametrize("page", TABLES)
def test_every_name_has_its_row(page: str) -> None:
    """A cell may name several; a preset is called by its objective, which is said once for those that follow it."""
    named: set[str] = set()
    for names in first_cells(page):
        objective = next((name.split()[0] for name in names if name.split()[0] in PRESETS), "")
        named |= {*names, *(f"{objective} {name}" for name in names)}
    assert not (missing := set(TABLES[page]) - named), f"{page} has no row for {missing}"


def test_the_conventions_of_every_file_have_their_row() -> None:
    """Where `run.json` says how a file is read, the page says it too."""
    named = [name for names in first_cells("docs/conventions.md") for name in names]
    files = [known.files[0] for known in FORMATS.values() if known.reading]
    assert not (missing := [file for file in files if not any(name.startswith(file) for name in named)]), missing


def test_every_head_has_a_weight_that_the_docs_tell() -> None:
    weights = {field.name: field.default for field in fields(LossConfig)}
    objectives = (
        (ROOT / "docs" / "training.md").read_text().partition("### Objectives")[2].partition("\n- **distill**")[0]
    )
    for head in HEADS:
        assert re.search(rf"{head}` {weights[head]:g}\b", objectives), head


def test_the_site_shows_the_table_of_formats() -> None:
    section = (ROOT / "README.md").read_text().partition("[start:exports]")[2].partition("[end:exports]")[0]
    assert (
        section.count("\n|") >= len(FORMATS) and '--8<-- "README.md:exports"' in (ROOT / "docs/outputs.md").read_text()
    )
