"""The site and the notebook: the reference is whole, and the notebook runs from a fresh kernel."""

import ast
import re
from pathlib import Path

import pytest

import ivggt_jax
from ivggt_jax.inference.completion import print_completion

ROOT = Path(__file__).parents[1]


def test_the_reference_has_every_public_name_where_it_is_defined() -> None:
    listed = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)
    defined = {name: getattr(ivggt_jax, name) for name in ivggt_jax.__all__}
    assert sorted(listed) == sorted(f"{value.__module__}.{name}" for name, value in defined.items())


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel of its own, whose JAX uses a CPU and finds this tree."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    resources = {"metadata": {"path": str(ROOT / "examples")}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "30 frames: " in printed and "MB at every frame" in printed


def test_every_option_is_explained_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Within an explanation a line's end would end an entry of the shell's completion, and break the lines of --help."""
    with pytest.raises(SystemExit):
        print_completion("bash")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("COMPLETION_SPEC = "))
    specs, told = [ast.literal_eval(line.removeprefix("COMPLETION_SPEC = "))], []
    for spec in specs:
        told += [(option["flags"], option["description"]) for option in spec["options"]]
        specs += spec["subcommands"].values()
    assert len(told) > 100 and not [flags for flags, description in told if "\n" in description]
