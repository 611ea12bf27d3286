"""What the commands share."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_written(tmp_path: Path, number: signal.Signals):
    """A folder that a command is writing beside its place is gone after Ctrl-C and after SIGTERM, and it says so in a line."""
    program = f"""
import signal, time
from pathlib import Path
from ivggt_jax.beside import written_beside
from ivggt_jax.runs.command import run_command
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore

def write(config):
    with written_beside(Path({str(tmp_path / "model")!r}), folder=True):
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
