"""What the commands share."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest

from ivggt_jax.runs.command import NARROWEST, run_command


@dataclass(frozen=True)
class Options:
    """Of the commands here."""

    times: int = 1
    """How often something is done, which is told in a sentence that is longer than a narrow terminal is wide."""


def code_of(run) -> int:
    """The exit code of a command that does this, called here without arguments."""
    with pytest.raises(SystemExit) as stopped:
        run_command(Options, run, [], "command")
    return stopped.value.code


def in_shell(line: str, program: str, **environment: str) -> subprocess.CompletedProcess:
    """A Python program where a shell's line has `"$@"`."""
    return subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize("columns", ["1", "2", "3", "4", "5", "6", "39", "0", "-1", "many"])
def test_help_comes_to_its_end_in_any_terminal(columns: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as stopped:
        run_command(Options, lambda _: 0, ["--help"], "command")
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--times" in shown and max(map(len, shown.splitlines())) <= max(NARROWEST, 80)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("a is too large"), "error: a is too large\n"),
        (MemoryError(), "error: the memory is full; docs/troubleshooting.md says what needs less\n"),
        (MemoryError("Unable to allocate 9 GiB\nof it"), "needs less (Unable to allocate 9 GiB)\n"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
            "needs less (RESOURCE_EXHAUSTED: out of memory)\n",
        ),
        (RuntimeError("Could not determine home directory."), "set HOME or IVGGT_CACHE to a folder of yours\n"),
        (OSError("the disk is full"), "error: the disk is full\n"),
    ],
)
def test_an_error_is_one_line(error: Exception, words: str, capsys) -> None:
    def fail(_: Options) -> int:
        raise error

    assert code_of(fail) == 1
    shown = capsys.readouterr().err
    assert shown.endswith(words) and shown.count("\n") == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("a mistake of ours"), jax.errors.JaxRuntimeError("INTERNAL"), KeyError("x")]
)
def test_a_mistake_of_ours_shows_where_it_is(error: Exception) -> None:
    def fail(_: Options) -> int:
        raise error

    with pytest.raises(type(error)):
        run_command(Options, fail, [], "command")


@pytest.mark.parametrize("place", ["a file", "below a file", "no home", "home is nowhere", "read-only", "JAX's own"])
def test_without_a_place_for_compiled_programs_there_is_a_line(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "file").touch()
    match place:
        case "a file":
            monkeypatch.setenv("IVGGT_CACHE", str(tmp_path / "file"))
        case "below a file":
            monkeypatch.setenv("IVGGT_CACHE", str(tmp_path / "file" / "below"))
        case "no home":
            monkeypatch.delenv("IVGGT_CACHE", raising=False)
            monkeypatch.setattr(Path, "home", lambda: Path("~nobody-of-this-name").expanduser())
        case "home is nowhere":
            monkeypatch.delenv("IVGGT_CACHE", raising=False)
            monkeypatch.setenv("HOME", "/proc/nowhere")
        case "read-only":
            monkeypatch.setenv("IVGGT_CACHE", str(tmp_path))
            monkeypatch.setattr(os, "access", lambda path, mode: False)
    kept = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file") if place == "JAX's own" else None)
    try:
        assert code_of(lambda _: 0) == 0
        assert jax.config.values["jax_compilation_cache_dir"] is None
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)
    shown = capsys.readouterr().err
    assert "warning: compiled programs are not kept" in shown and shown.count("\n") == 1
    variable = "JAX_COMPILATION_CACHE_DIR" if place == "JAX's own" else "IVGGT_CACHE"
    assert f"set {variable} to a folder of yours" in shown


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_get_nothing_and_spoil_no_file(closed: str, tmp_path: Path) -> None:
    """A file that is opened has the number of none of them, so that what is printed goes elsewhere."""
    program = f"""
import contextlib, os, sys
from ivggt_jax.runs.command import run_command, say

def write(_):
    with open({str(tmp_path / "file")!r}, "wb", buffering=0) as file:
        print("to stdout", flush=True)
        say("to stderr")
        for number in (1, 2):
            with contextlib.suppress(OSError):  # a library may have opened something to be read under that number
                os.write(number, b"to a number")
        file.write(b"results")
        assert sys.stdin.read() == ""
    return 0

run_command(dict, write, [], "write")
"""
    assert in_shell(f'exec "$@" {closed if "<" in closed else closed + " </dev/null"}', program).returncode == 0
    assert (tmp_path / "file").read_bytes() == b"results"


def test_when_nobody_reads_on_the_command_ends_without_a_word() -> None:
    program = """
from ivggt_jax.runs.command import run_command

def write(_):
    for _ in range(100_000):
        print("a line that fills the pipe")
    return 0

run_command(dict, write, [], "write")
"""
    ended = in_shell('"$@" | head -n 1; echo "${PIPESTATUS[0]}"', program)
    assert ended.stdout == b"a line that fills the pipe\n141\n" and not ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_replaced(encoding: str) -> None:
    program = """
from ivggt_jax.runs.command import run_command, say
run_command(dict, lambda _: print("518×392 → out") or say("30 frames → out") or 0, [], "write")
"""
    ended = in_shell('exec "$@"', program, PYTHONIOENCODING=encoding)
    assert (
        ended.returncode == 0
        and ended.stdout.endswith(b"392 ? out\n")
        and ended.stderr.endswith(b"frames \\u2192 out\n")
    )


def test_a_damaged_program_is_compiled_and_kept_anew(tmp_path: Path) -> None:
    """Cut short, as a kill leaves it; empty; other bytes at its beginning, middle or end; a text; another program compressed
    otherwise. Each time one line, and then it is as it was."""
    program = f"""
import gzip
from pathlib import Path
import jax
from ivggt_jax.runs.command import run_command, say

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
folder = Path({str(tmp_path)!r})

def entry():
    return next(folder.glob("jit_slowly-*-cache"))

def work(_):
    @jax.jit
    def slowly(x):
        return jax.numpy.sin(x) @ x
    @jax.jit
    def other(x):
        return jax.numpy.cos(x) @ x
    x = jax.numpy.ones((4, 4))
    slowly(x), other(x)
    untouched = next(folder.glob("jit_other-*-cache")).stat().st_mtime_ns
    whole = entry().read_bytes()
    middle = len(whole) // 2
    for damaged in (
        whole[:50], b"", bytes(len(whole)), whole[:-20] + bytes(20), whole[1:], whole[: middle], bytes(8) + whole[8:],
        whole[:middle] + bytes(64) + whole[middle + 64 :], b"{{}}", b"not found\\n" * 500, gzip.compress(whole),
    ):
        entry().write_bytes(damaged)
        for _ in range(2):
            jax.clear_caches()
            slowly(x), other(x)
            say("done")
        assert entry().stat().st_size > 0.9 * len(whole)
    assert next(folder.glob("jit_other-*-cache")).stat().st_mtime_ns == untouched
    return 0

run_command(dict, work, [], "work")
"""
    ended = in_shell('exec "$@"', program, JAX_COMPILATION_CACHE_DIR=str(tmp_path))
    line = b"warning: the compiled program jit_slowly was damaged and is compiled again\n"
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stderr == 11 * (line + b"done\ndone\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_written(tmp_path: Path, number: signal.Signals):
    """A folder that a command is writing beside its place is gone after Ctrl-C and after SIGTERM, and it says so in a line."""
    program = f"""
import signal, time
from pathlib import Path
from ivggt_jax.disk.beside import written_beside
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
