"""Shared by all commands: parsing arguments to a dataclass, the compilation cache, messages and errors as plain lines."""

import glob
import logging
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro
from tqdm import tqdm

from ivggt_jax.disk.beside import remove
from ivggt_jax.options.words import misspelt_choices
from ivggt_jax.weights.hub import cache_folder

# JAX is imported inside functions, because --help does not need it.

Config = TypeVar("Config")
USER_ERRORS = (ValueError, OSError)
"""Errors of the library and of files. Their message says what is wrong and what to do; a traceback would hide it."""
NARROWEST = 40
"""Least width in columns for laying out help; below six, laying it out would never end."""
DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")
"""JAX's warning about a compiled program that it cannot read; JAX continues without it but never replaces it."""


def run_command(
    config: Callable[..., Config],
    run: Callable[[Config], int],
    arguments: Sequence[str] | None,
    program: str,
    description: str | None = None,
) -> NoReturn:
    """Parse the command line into `config`, run, and exit with its code.

    description: for --help, if different from the docstring of `run`.

    The exit code is 1, with a one-line message, for an error, 130 for Ctrl-C and SIGTERM, 141 when the output is no longer read.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that half-written files are removed
    _open_standard_streams()
    logging.basicConfig(level=logging.WARNING, handlers=[_PlainLines()])
    logging.getLogger("ivggt_jax").setLevel(logging.INFO)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # serious damage to an image raises an error anyway
        warnings.filterwarnings("always", DAMAGED.pattern)
        warnings.showwarning = _show_warning
        code = _code(lambda: _run(config, run, arguments, program, description or run.__doc__))
    sys.exit(code)


def say(text: str) -> None:
    """Print a line for the user on standard error, above a progress bar if there is one; ignored if standard error is closed."""
    with suppress(OSError):
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


def compiled_folder() -> Path:
    """Folder of compiled programs: $JAX_COMPILATION_CACHE_DIR, or a folder next to the weights.

    Raises RuntimeError when that would be in the home directory and there is none.
    """
    import jax

    return Path(jax.config.values["jax_compilation_cache_dir"] or cache_folder() / "compiled")


def _run(
    config: Callable[..., Config],
    run: Callable[[Config], int],
    arguments: Sequence[str] | None,
    program: str,
    description: str | None,
) -> int:
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = f"{NARROWEST}"
    try:
        options = tyro.cli(config, args=arguments, prog=program, description=description)
    except SystemExit as stopped:
        if stopped.code:
            for word, name in misspelt_choices(config, sys.argv[1:] if arguments is None else arguments):
                say(f"{word}: did you mean {name}?")
        raise
    _keep_compiled_programs()
    code = run(options)
    sys.stdout.flush()  # here, where a closed pipe is handled
    return code


def _code(run: Callable[[], int]) -> int:
    """The exit code of a command; errors are printed in a line."""
    try:
        return run()
    except BrokenPipeError:  # as after `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at its end
        return 128 + signal.SIGPIPE
    except USER_ERRORS as error:
        say(f"error: {error}")
        return 1
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):  # JAX's wording
            kind = f" ({_first_line(error)})" if str(error) else ""
            say(f"error: the memory is full; docs/troubleshooting.md says what needs less{kind}")
            return 1
        if "home directory" not in str(error):  # pathlib's message about ~ and ~name
            raise
        say(
            "error: there is no such home directory: give whole paths, and set HOME or IVGGT_CACHE to a folder of yours"
        )
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def _keep_compiled_programs() -> None:
    """Enable the cache of compiled programs, if there is a place for it."""
    import jax

    where, variable = "the home directory", "IVGGT_CACHE"
    if jax.config.values["jax_compilation_cache_dir"]:
        variable = "JAX_COMPILATION_CACHE_DIR"
    try:
        folder = compiled_folder()
        where = str(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError
    except (OSError, RuntimeError):
        say(
            f"warning: compiled programs are not kept, each run compiles them again: {where} cannot be written; "
            f"set {variable} to a folder of yours"
        )
        jax.config.update("jax_compilation_cache_dir", None)
    else:
        if not jax.config.values["jax_compilation_cache_dir"]:
            jax.config.update("jax_compilation_cache_dir", where)


def _open_standard_streams() -> None:
    """Replace closed standard streams, or files opened later would get their numbers, and the printed text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            place = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            if place != number:
                os.dup2(place, number)
                os.close(place)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # for characters the locale lacks; stderr writes them as \x…


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as a plain line. A damaged compiled program is removed, so that JAX writes it again."""
    if found := DAMAGED.match(str(message)):
        for path in compiled_folder().glob(f"{glob.escape(found[1])}-*"):  # JAX does not say which of them it is
            with suppress(OSError):
                remove(path)
        say(f"warning: the compiled program {found[1]} was damaged and is compiled again")
    else:
        say(f"warning: {_first_line(message)}")


class _PlainLines(logging.Handler):
    """Prints the library's log records, a plain line each: "warning: skipped: …", or just the text below warning level."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        say(f"{kind}{record.getMessage()}")


def _first_line(message: object) -> str:
    return str(message).partition("\n")[0]
