"""Reads checkpoints with random bytes changed: `python tests/fuzz.py 1000000` counts what becomes of them.

Every input must be read or refused with a CheckpointError. Anything else ends the run: another exception, an import, a
compilation, a command, a stop of more than a minute, or more memory than the bound.
"""

import faulthandler
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from archive import dictionary, nothing_runs, storage, tensor, write_archive

from ivggt_jax.convert.torch_file import open_tensors
from ivggt_jax.weights.tensor_file import CheckpointError, write_safetensors

MEMORY_BOUND = 256 * 2**20


def seeds(folder: Path) -> dict[str, bytes]:
    """The sound files that damage begins from, by the name they are damaged under."""
    real = (Path(__file__).parent / "golden" / "torch_save.pth").read_bytes()
    small = dictionary(
        model=b"}(X\x01\x00\x00\x00a" + tensor((2, 3), (3, 1)) + b"X\x01\x00\x00\x00b" + tensor((3, 2), (1, 3)) + b"u"
    )
    write_archive(folder / "seed.pth", small, {"0": storage()})
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.int64)}
    layout = {name: (x.shape, x.dtype) for name, x in arrays.items()}
    write_safetensors(folder / "seed.safetensors", layout, arrays.__getitem__)
    index = json.dumps({"weight_map": {"a": "seed.safetensors", "b": "seed.safetensors"}}).encode()
    return {
        "real unchecked.pth": without_checksums(real),
        "small.pth": (folder / "seed.pth").read_bytes(),
        "small unchecked.pth": without_checksums((folder / "seed.pth").read_bytes()),
        "small.safetensors": (folder / "seed.safetensors").read_bytes(),
        "small.index.json": index,
    }


def without_checksums(archive: bytes) -> bytes:
    """The same archive as a writer makes it that leaves checksums out, so that damage reaches what they would guard."""
    changed = bytearray(archive)
    position = changed.find(b"PK\1\2")
    while position >= 0:
        changed[position + 16 : position + 20] = bytes(4)
        position = changed.find(b"PK\1\2", position + 4)
    return bytes(changed)


def fuzz(folder: Path, count: int, seed: int) -> Counter[str]:
    """Damage and read `count` files; returns how many were read and how many refused."""
    random = np.random.default_rng(seed)
    files = list(seeds(folder).items())
    outcomes: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        if number % 1000 == 0:
            faulthandler.dump_traceback_later(60, exit=True)
        name, whole = files[number % len(files)]
        damaged = bytearray(whole)
        for _ in range(random.integers(1, 9)):
            damaged[random.integers(len(damaged))] = random.integers(256)
        path = folder / name
        path.write_bytes(damaged)
        try:
            with nothing_runs():
                for x in open_tensors(path).values():
                    x.tobytes()
            outcomes["read"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
    faulthandler.cancel_dump_traceback_later()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > MEMORY_BOUND:
        raise MemoryError(f"reading files of a few kilobytes took {grown >> 20} MiB")
    return outcomes


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").exists() else None) as scratch:
        began = time.monotonic()
        print(dict(fuzz(Path(scratch), int(sys.argv[1]), seed=0)), f"in {time.monotonic() - began:.0f} s")
