"""The table of formats is whole: every name is written by somebody, of what it needs, and into just the files that it says."""

import contextlib
from fnmatch import fnmatch
from pathlib import Path
from typing import get_args

import pytest
from writer_scene import ALL, moving, saved

from ivggt_jax.export import RECORD_FILES
from ivggt_jax.options.export import FORMATS, BuiltOutput, Output
from ivggt_jax.runs.output_folder import MARKER, OUTPUTS, begin_anew, mark
from ivggt_jax.writers import WRITERS, Writers
from ivggt_jax.writers.exports import EXPORTS
from ivggt_jax.writers.run_json import CONVENTIONS

OF_THE_MAP = {"submaps", "loops"}
"""Writers that a run with submaps or loops has without being asked."""
EXTRAS = {"rrd": "rerun", "mcap": "foxglove"}


def write(name: str, folder: Path, **changes: None) -> list[str]:
    """What lies in a folder once four frames of the exact scene, 168×112 pixels, were written there as one format."""
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    folder.mkdir()
    frames = [moving(index, **changes) for index in range(4)]
    if name in EXPORTS:
        EXPORTS[name](saved(folder.parent / "run", frames), folder, ALL)
    else:
        with contextlib.closing(Writers([name], folder, ALL)) as writers:
            for frame in frames:
                writers.write(frame)
    return [path.name for path in folder.iterdir()]


def test_every_name_has_its_row_and_its_writer() -> None:
    assert set(FORMATS) == set(get_args(Output))
    assert set(WRITERS) - OF_THE_MAP == set(FORMATS) - set(get_args(BuiltOutput))
    assert tuple(EXPORTS) == get_args(BuiltOutput)


@pytest.mark.parametrize("name", FORMATS)
def test_it_writes_the_files_of_its_row_and_a_run_that_begins_anew_removes_them(name: str, tmp_path: Path) -> None:
    out, patterns = tmp_path / "out", FORMATS[name].files
    found = write(name, out)
    assert all(any(fnmatch(file, pattern) for pattern in patterns) for file in found), found
    assert all(any(fnmatch(file, pattern) for file in found) for pattern in patterns), found
    mark(out)
    begin_anew(out)
    assert [path.name for path in out.iterdir()] == [MARKER]


@pytest.mark.parametrize("name", FORMATS)
def test_it_needs_what_its_row_says(name: str, tmp_path: Path) -> None:
    """Of frames without depth, points and tracks a format is written if its row needs neither."""
    nothing = dict.fromkeys(("depth", "depth_confidence", "points", "points_confidence", "tracks", "visibility"))
    if FORMATS[name].needs is None:
        assert write(name, tmp_path / "out", **nothing)
    else:
        with pytest.raises(ValueError, match="depth|points|tracks"):
            write(name, tmp_path / "out", **nothing)


def test_what_lies_beside_them_is_removed_too() -> None:
    """The graph of the map, and what is said of a map that was moved: in a folder of its own, or with --into at the top."""
    assert {"submaps.txt", "loops.txt", "places.bin", "run.json"} <= set(OUTPUTS)
    assert {*RECORD_FILES, *RECORD_FILES.values()} <= set(OUTPUTS)


def test_run_json_says_how_files_are_read() -> None:
    assert set(CONVENTIONS) == {"scale", "world"} | {known.files[0] for known in FORMATS.values() if known.reading}
