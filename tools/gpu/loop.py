"""How many instructions does the attention kernel's loop take? Without a GPU: python tools/gpu/loop.py

Compiles `attend_in_place` for an H200 at the size of one layer of the full model, assembles it, and counts the machine code of
the loop over whole blocks of keys: the measured time has followed these counts. Beside what `h200.py` needs, ptxas and
cuobjdump are looked for on the PATH and beside the CUDA packages (`pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`).
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
from h200 import compiled

from ivggt_jax.kernels.attention_in_place import attend_in_place

SLOTS, TOKENS, HEADS, DIM = 76_288, 1_041, 16, 64
INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,5})\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)\s*([^;]*)")


def tool(name: str) -> str:
    """Where a program of the CUDA toolkit is. Raises FileNotFoundError where it is not."""
    beside = [str(path) for folder in sys.path for path in Path(folder).glob("nvidia/*/bin")]
    found = shutil.which(name, path=os.pathsep.join([*beside, os.environ.get("PATH", "")]))
    if found is None:
        raise FileNotFoundError(f"{name} of the CUDA toolkit is neither on the PATH nor beside the CUDA packages")
    return found


def loops(listing: str) -> list[Counter[str]]:
    """Instructions of every loop that multiplies matrices, in the order of the program."""
    code = [(int(address, 16), operation, rest) for address, operation, rest in INSTRUCTION.findall(listing)]
    found: list[Counter[str]] = []
    for end, operation, rest in code:
        target = re.search(r"0x([0-9a-f]+)", rest) if operation.startswith("BRA") else None
        if target and int(target[1], 16) < end:
            body = Counter(name.split(".")[0] for at, name, _ in code if int(target[1], 16) <= at <= end)
            found += [body] if body.keys() & {"HGMMA", "HMMA", "IMMA"} else []
    return found


def count(quantised: bool, dumped: Path) -> None:
    """Prints what the loop is made of, and the registers, for a cache in bfloat16 or int8; dumped: where XLA leaves its PTX."""
    stored = jax.ShapeDtypeStruct((2, 1, SLOTS, HEADS, DIM), jnp.int8 if quantised else jnp.bfloat16)
    scale = jax.ShapeDtypeStruct(stored.shape[:-1], jnp.float32)
    scalar, length = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    query = jax.ShapeDtypeStruct((1, TOKENS, HEADS, DIM), jnp.bfloat16)
    compiled(jax.jit(attend_in_place), query, stored, stored, scalar, length, (scale, scale) if quantised else None)
    (ptx,) = (path for path in dumped.glob("*.ptx") if "mma" in path.read_text())
    binary = dumped / "kernel.cubin"
    assembled = subprocess.run(
        [tool("ptxas"), "-v", "-arch=sm_90a", ptx, "-o", binary], capture_output=True, text=True, check=True
    ).stderr
    listing = subprocess.run([tool("cuobjdump"), "-sass", binary], capture_output=True, text=True, check=True).stdout
    facts = ", ".join(re.findall(r"Used \d+ registers|\d+ bytes spill stores", assembled))
    body = loops(listing)[0]
    print(f"{'int8' if quantised else 'bfloat16'}: {body.total()} instructions; {facts}; {dict(body.most_common(8))}")
    ptx.unlink()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        # Read when XLA first compiles.
        os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder} --xla_dump_emitter_re=.* --xla_gpu_dump_llvmir=true"
        count(quantised=False, dumped=Path(folder))
        count(quantised=True, dumped=Path(folder))
