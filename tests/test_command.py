"""What the commands share."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ivggt_jax.runs import command


@pytest.mark.parametrize(("limit", "expected"), [("3000000", 3_000_000 - 2_000_000 + 500_000), ("max", None)])
def test_free_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit, expected):
    """Its limit less what is used, of which the cache of inactive files can be given up; "max" is no limit."""
    monkeypatch.setattr(command, "CONTAINER", tmp_path)
    machine = command.free_memory()
    assert machine > 10**8
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    (tmp_path / "memory.stat").write_text("anon 1200000\nfile 800000\ninactive_file 500000\n")
    if expected is None:
        assert command.free_memory() > machine / 2
    else:
        assert command.free_memory() == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_written(tmp_path: Path, number: signal.Signals):
    """A folder that a command is writing beside its place is gone after Ctrl-C and after SIGTERM, and it says so in a line."""
    program = f"""
import signal, time
from pathlib import Path
from ivggt_jax.weights.checkpoint import written_beside
from ivggt_jax.runs.command import run_command
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore

def write(config):
    with written_beside(Path({str(tmp_path / "model")!r})) as beside:
        beside.mkdir()
        print("writing", flush=True)
        time.sleep(60)

run_command(dict, write, [], "write")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "interrupted\n")
    assert not list(tmp_path.iterdir())
