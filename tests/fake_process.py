"""Stands for `ivggt_jax.batch.process` in tests of what holds it: what it does is the name of the source."""

import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from ivggt_jax.inference.options import InferConfig  # noqa: F401 (a task is read with it)

channel = Connection(int(sys.argv[1]))
channel.send(None)
while True:
    try:
        config = channel.recv()
    except EOFError:
        break
    name, out = Path(config.source.frames).name, config.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "among").write_text(" ".join(sys.argv[2:]))
    tries = len(list(out.glob("try*"))) + 1
    (out / f"try{tries}").write_text(f"{config.resume} {config.overwrite} {config.checkpoint}")
    if name == "late" and tries == 1:  # it begins, and then dies
        (out / ".ivggt_jax").unlink()
        (out / ".ivggt_jax").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "mortal" or (name == "clumsy" and tries < 3):
        os.kill(os.getpid(), signal.SIGKILL)
    stopped = []
    if name in ("slow", "deaf"):
        signal.signal(signal.SIGTERM, lambda *_: None if name == "deaf" else stopped.append(True))  # noqa: B023
        while not stopped:
            time.sleep(0.01)
    (out / "run.json").write_text("{}")
    if name == "bad":
        channel.send({"status": "failed", "error": "it is bad"})
    else:
        channel.send({"status": "stopped"} if stopped else {"status": "done", "frames": 7})
