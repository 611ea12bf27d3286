"""`python -m ivggt_jax.batch.process`: runs one video after another with one loaded model, compiling once per image size."""

import dataclasses
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from tyro.conf import Positional

from ivggt_jax.batch.inputs import local
from ivggt_jax.inference.options import InferConfig
from ivggt_jax.runs.command import USER_ERRORS, run_command
from ivggt_jax.runs.room import Share
from ivggt_jax.writers.run_json import read_run_json, recorded

SECONDS_TO_END = 30.0
"""How long to wait for a folder still locked by a worker that was killed but has not exited yet."""


@dataclass(frozen=True)
class ProcessConfig:
    """Options of the process."""

    channel: Positional[int]
    """File descriptor over which options of `infer` come in and outcomes go out."""
    among: int = 1
    """Number of processes that share the memory, including this one."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line program."""
    run_command(ProcessConfig, serve, arguments, "python -m ivggt_jax.batch.process")


def serve(options: ProcessConfig) -> int:
    """Say that the process is ready, then run what comes over the channel.

    When the channel is closed, the process ends at once, even in the middle of a video.
    """
    from ivggt_jax.runs.memory import free_memory
    from ivggt_jax.weights import loading

    channel: Connection[Any, Any] = Connection(options.channel)
    waiting: SimpleQueue[InferConfig] = SimpleQueue()
    threading.Thread(target=_listen, args=(channel, waiting), daemon=True).start()
    load = lru_cache(maxsize=1)(loading.load)

    @lru_cache(maxsize=1)  # evaluated before the first model is loaded, so that all videos are planned alike
    def share() -> Share | None:
        return Share(free_memory(), options.among) if options.among > 1 else None

    channel.send(None)  # ready
    while True:
        channel.send(outcome(waiting.get(), load, share))


def _listen(channel: "Connection[Any, Any]", waiting: "SimpleQueue[InferConfig]") -> None:
    while True:
        try:
            waiting.put(channel.recv())
        except (EOFError, OSError):
            # Nobody reads the results any more, and another worker may already continue this video. What is on disk is
            # complete.
            os._exit(0)


def outcome(config: InferConfig, load: Any, share: Callable[[], Share | None] = lambda: None) -> dict[str, Any]:
    """Run a video within a share of the memory. Returns its entry in the manifest: status, and frames or error.

    A source at an address is fetched here, because a signal or the time limit must be able to end that, too.
    """
    from ivggt_jax.infer import infer
    from ivggt_jax.runs.output_folder import Busy

    out = config.out
    assert out is not None
    until = time.monotonic() + SECONDS_TO_END
    try:
        config = dataclasses.replace(config, memory=dataclasses.replace(config.memory, share=share()))
        with local(config.source.frames, out.parent / "inputs" / out.name) as frames:
            config = dataclasses.replace(config, source=dataclasses.replace(config.source, frames=frames))
            while True:
                try:
                    code = infer(config, load)
                    break
                except Busy:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.2)
        if code >= 128:
            return {"status": "stopped"}
        return {"status": "done", "frames": recorded(read_run_json(out), "frames")}
    except KeyboardInterrupt:
        return {"status": "stopped"}
    except USER_ERRORS as error:
        return {"status": "failed", "error": str(error)}
    except Exception as error:  # one video must not end the job
        traceback.print_exc()
        return {"status": "failed", "error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


if __name__ == "__main__":
    main()
