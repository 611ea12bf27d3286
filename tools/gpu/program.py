"""What would a GPU run for one frame? Without having one: python tools/gpu/program.py > program.txt

Compiles the step of the full model, at its default budget and in bfloat16, for an H200, and counts what XLA made of it: kernels
and copies a frame, what the host is asked, memory. Other cases by options of the bench command, such as
--capacity-factor 1.1 --cache-dtype int8 --heads camera depth. The program goes to standard output, the counts to standard
error. What it needs, and what it cannot know, is said in h200.py; it takes less than a minute.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import tyro
from h200 import compiled

from ivggt_jax import ModelConfig, scan, step
from ivggt_jax.bench.case import Case, start
from ivggt_jax.model.parameters import abstract_model

INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\(")
NO_KERNEL = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("while", "conditional", "call", "fusion-done", "copy-done"),
)
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}


def program(case: Case) -> jax.stages.Compiled:
    """The step of a case, compiled from shapes alone."""
    config = getattr(ModelConfig, case.model)()
    model = abstract_model(config, "bfloat16", case.heads)
    state = jax.eval_shape(lambda: start(case, model))
    size = case.image_size(config)
    if case.chunk == 1:
        return compiled(step, model, state, jax.ShapeDtypeStruct((case.batch, *size, 3), jnp.uint8))
    return compiled(scan, model, state, jax.ShapeDtypeStruct((case.chunk, case.batch, *size, 3), jnp.uint8))


def computations(program: str) -> tuple[dict[str, list[tuple[str, str, str, str]]], str]:
    """Instructions (name, shape, operation, line) of every computation, and which one is the whole program."""
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    entry = current = ""
    for line in program.splitlines():
        if opening := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
            current = opening[2]
            found[current] = []
            entry = current if opening[1] else entry
        elif instruction := INSTRUCTION.match(line):
            found[current].append((*instruction.groups(), line))
    return found, entry


def executed(found: dict, name: str, times: int) -> Iterator[tuple[int, str, str, str, str]]:
    """Instructions with how often each runs in a frame that evicts once; loops without a known end are further rounds."""
    for instruction in found[name]:
        operation, line = instruction[2:]
        yield (times, *instruction)
        if operation == "while" and (trips := re.search(r'known_trip_count":\{"n":"(\d+)"', line)):
            yield from executed(found, re.search(r"body=%?([\w.-]+)", line)[1], times * int(trips[1]))
        elif operation == "conditional":
            branches = [other for other in re.findall(r"%([\w.-]+)", line) if other in found]
            yield from executed(found, max(branches, key=lambda branch: len(found[branch])), times)
        elif operation == "call":
            yield from executed(found, re.search(r"to_apply=%?([\w.-]+)", line)[1], times)


def size(shape: str) -> int:
    """Bytes of the arrays of a shape."""
    total = 0
    for kind, dimensions in re.findall(r"(\w+)\[([\d,]*)\]", shape):
        count = BYTES[kind]
        for length in dimensions.split(","):
            count *= int(length or 1)
        total += count
    return total


def main() -> None:
    """Prints the program and the counts."""
    report = partial(print, file=sys.stderr)
    began = time.perf_counter()
    found = program(tyro.cli(Case))
    memory = found.memory_analysis()
    print(found.as_text())
    report(f"compiled in {time.perf_counter() - began:.0f} s")
    report(
        f"arguments {memory.argument_size_in_bytes / 1e9:.2f} GB, temporaries {memory.temp_size_in_bytes / 1e9:.2f} GB"
    )
    kinds: Counter[str] = Counter()
    copied: Counter[str] = Counter()
    asked = 0
    for times, name, shape, operation, line in executed(*computations(found.as_text()), 1):
        asked += times * (operation == "conditional" or (operation == "while" and "known_trip_count" not in line))
        if operation not in NO_KERNEL:
            kinds["copy of a layer's weights" if "dynamic_index_in_dim" in line else operation] += times
            if operation == "copy":
                copied[f"{name} {shape}"] += times * size(shape)
    report(f"the host is asked {asked} times")
    report(f"{sum(kinds.values())} kernels: {dict(kinds)}")
    report("largest copies: " + "; ".join(f"{name} {total / 1e6:.1f} MB" for name, total in copied.most_common(3)))


if __name__ == "__main__":
    main()
