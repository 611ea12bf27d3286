"""Written beside, then renamed: at every step that can fail, the old or the new is there, whole."""

import fcntl
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faults import FAULTS, at_every_step

from ivggt_jax.disk.beside import claimed, part_of, remove, written_beside
from ivggt_jax.runs import resume
from ivggt_jax.train.metrics import Metrics
from ivggt_jax.writers.files import replacing
from ivggt_jax.writers.run_json import write_run_json


def write_file(path, content):
    with written_beside(path) as part:
        part.write_bytes(content)


def write_folder(path, content):
    remove(path)
    with written_beside(path, folder=True) as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_bytes(content)
        (part / "file").write_bytes(content)


def write_binary(path, content):
    with replacing(path) as file:
        file.write(content)


def write_record(path, content):
    write_run_json(path.parent, {"content": content.decode()})


def write_state(path, content):
    resume.begin(path.parent, {"content": content.decode()})


def write_metrics(path, content):
    if not path.exists():
        path.write_text(f'{{"step": 1, "split": "{content.decode()}"}}\n')
    with Metrics(path.parent, step=1):
        pass


FILES = {
    "written_beside": (write_file, "file"),
    "replacing": (write_binary, "file"),
    "run.json": (write_record, "run.json"),
    "unfinished": (write_state, resume.STATE_FILE),
    "metrics": (write_metrics, "metrics.jsonl"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("user", FILES)
def test_a_file_is_the_old_or_the_new_after_every_fault(tmp_path, user, fault):
    write, name = FILES[user]
    path = tmp_path / name
    write(path, b"new")
    new = path.read_bytes()
    if user != "metrics":  # which keeps what is there
        path.unlink()
    write(path, b"old" * 50)
    old = path.read_bytes()
    for step in at_every_step(FAULTS[fault], lambda: write(path, b"new")):
        assert path.read_bytes() in (old, new), step
        left = [found for found in tmp_path.iterdir() if found != path]
        assert left in ([], [part_of(path)]), step
        assert fault == "kill" or all(found.stat().st_size == 0 for found in left), step
        write(path, b"old" * 50)
        assert {found.name for found in tmp_path.iterdir()} == {name}, step
    assert path.read_bytes() == new


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_appears_whole_or_not_at_all(tmp_path, fault):
    path = tmp_path / "folder"

    def write():
        with written_beside(path, folder=True) as part:
            (part / "inner").mkdir()
            (part / "inner" / "file").write_bytes(b"x")
            (part / "file").write_bytes(b"x")

    for step in at_every_step(FAULTS[fault], write):
        if path.exists():
            assert {found.name for found in path.rglob("*")} == {"inner", "file"}, step
            remove(path)
    assert {found.name for found in tmp_path.rglob("*")} == {"folder", "inner", "file"}


def test_what_a_killed_process_began_is_taken_over(tmp_path):
    part = part_of(tmp_path / "folder")
    (part / "deep").mkdir(parents=True)
    (part / "deep" / "file").write_bytes(b"half")
    (part / "link").symlink_to(tmp_path)
    (tmp_path / "precious").write_bytes(b"x")
    with written_beside(tmp_path / "folder", folder=True) as part:
        assert list(part.iterdir()) == []
    part_of(tmp_path / "file").write_bytes(b"half of something long")
    with written_beside(tmp_path / "file") as part:
        assert part.read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "precious"]


HOLDER = """
import sys, time
from pathlib import Path
from ivggt_jax.disk.beside import written_beside

with written_beside(Path(sys.argv[1]), folder=sys.argv[2] == "folder") as part:
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_two_processes_one_is_refused_and_the_other_keeps_its_part(tmp_path, kind):
    path = tmp_path / "place"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path, kind],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "holding\n"
    with (
        pytest.raises(BlockingIOError, match="another process is writing it"),
        written_beside(path, folder=kind == "folder"),
    ):
        pass
    holder.communicate("")
    assert holder.returncode == 0 and path.exists()
    assert [found.name for found in tmp_path.iterdir()] == ["place"]


def test_a_part_of_that_name_that_another_process_began_meanwhile_is_left_to_it(tmp_path):
    with claimed(tmp_path / "part") as part:
        part.rename(tmp_path / "place")
        part.write_bytes(b"another's")
    assert part.read_bytes() == b"another's"


def test_file_systems_without_locks_are_written_to(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_file(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


def _add(path: Path, number: int) -> int:
    try:
        write_file(path, np.full(1000, number, np.uint8).tobytes())
    except BlockingIOError:
        return 0
    return 1


def test_many_at_once_never_mix(tmp_path):
    """Four processes, fifty attempts each: who is not refused replaces the whole."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        written = pool.starmap(_add, [(tmp_path / "file", number) for number in range(200)])
        found = np.frombuffer((tmp_path / "file").read_bytes(), np.uint8)
    assert sum(written) > 0 and found.shape == (1000,) and (found == found[0]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_link_under_the_name_of_a_part_leads_nowhere(tmp_path, kind):
    """What it points to stays, whichever is written."""
    theirs = tmp_path / "theirs"
    if kind == "folder":
        theirs.mkdir()
        (theirs / "kept").write_text("theirs")
    elif kind == "file":
        theirs.write_text("theirs")
    for folder in (False, True):
        place = tmp_path / f"place{folder}"
        part_of(place).symlink_to(theirs)
        with written_beside(place, folder=folder) as part:
            (part / "new" if folder else part).write_text("new")
        assert (place / "new" if folder else place).read_text() == "new" and not place.is_symlink()
    assert kind == "nothing" or (theirs / "kept" if kind == "folder" else theirs).read_text() == "theirs"
    assert kind != "nothing" or not theirs.exists()


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("left", ["file", "folder", "link", "pipe"])
def test_a_part_of_another_kind_is_taken_over(left: str, folder: bool, tmp_path: Path) -> None:
    """What a killed process, or another program, left under the part's name."""
    path, part = tmp_path / "x", tmp_path / ".x.part"
    if left == "folder":
        (part / "deep").mkdir(parents=True)
        (part / "deep" / "old").write_text("old")
    elif left == "pipe":
        os.mkfifo(part)
    elif left == "link":
        (tmp_path / "theirs").write_text("theirs")
        part.symlink_to(tmp_path / "theirs")
    else:
        part.write_text("old")
    with written_beside(path, folder=folder) as given:
        assert given.is_dir() == folder and given.is_file() != folder
        assert (list(given.iterdir()) if folder else given.read_bytes()) in ([], b"")
    assert path.is_dir() == folder and not part.exists()
    if left == "link":
        assert (tmp_path / "theirs").read_text() == "theirs"


@pytest.mark.parametrize("folder", [False, True])
def test_a_part_of_another_kind_that_is_held_stays(folder: bool, tmp_path: Path) -> None:
    with (
        written_beside(tmp_path / "x", folder=not folder) as held,
        pytest.raises(BlockingIOError),
        written_beside(tmp_path / "x", folder=folder),
    ):
        pass
    assert not held.exists() and (tmp_path / "x").is_dir() != folder
