"""Measures in separate processes, so that memory, compilation and threads of one do not affect the other."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import jax

from ivggt_jax.runs.command import USER_ERRORS

Target = Callable[..., None]
"""target(pipe, *arguments): serves the pipe's `requests` and sends an answer to each."""


@contextmanager
def measuring(target: Target, *arguments: Any, environment: dict[str, str]) -> Iterator[Callable[[str], Any]]:
    """A fresh process. Yields a function that takes a request and returns the process's answer.

    Raises ValueError with the process's own message when it fails.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(target, theirs, arguments), daemon=True)
    with _environment(environment):
        process.start()
    theirs.close()

    def ask(request: str) -> Any:
        with suppress(OSError):  # the process is gone, but may have sent the reason
            ours.send(request)
        try:
            answer = ours.recv()
        except (EOFError, OSError):
            process.join()
            raise ValueError(f"the measuring process ended with code {process.exitcode} at {request!r}") from None
        if isinstance(answer, _Failure):
            raise ValueError(str(answer))
        return answer

    try:
        yield ask
    except BaseException:
        process.terminate()
        raise
    finally:
        ours.close()
        process.join()


def requests(pipe: Connection) -> Iterator[str]:
    """Yield requests until the other side closes the pipe."""
    while True:
        try:
            yield pipe.recv()
        except EOFError:
            return


class _Failure(str):
    """Why a process cannot answer."""


def _serve(target: Target, pipe: Connection, arguments: tuple[Any, ...]) -> None:
    """Runs in the new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end of the pipe then closes
    try:
        target(pipe, *arguments)
    except (*USER_ERRORS, jax.errors.JaxRuntimeError) as error:
        pipe.send(_Failure(f"{error}"))


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes that start within the block."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
