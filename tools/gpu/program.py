"""What would a GPU run for one frame? Without having one: python tools/gpu/program.py > program.txt

Compiles the step of the full model, at its default budget and in bfloat16, for an H200, and counts what XLA made of it: kernels
and copies a frame, what the host is asked, memory. Other cases by options of the bench command, such as
--capacity-factor 1.1 --cache-dtype int8 --heads camera depth. The program goes to standard output, the counts to standard
error. Needs `pip install -e '.[cuda13]'` and JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1, and takes less than a minute. Nothing is measured
on a device, so XLA guesses where it would try: on a GPU some kernels are others.
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
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding

from ivggt_jax import ModelConfig, step
from ivggt_jax.bench.case import Case, start
from ivggt_jax.model.parameters import abstract_model

H200 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132 clock_rate_ghz: 1.98 fpus_per_core: 128 threads_per_warp: 32
  threads_per_block_limit: 1024 threads_per_core_limit: 2048 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  l2_cache_size: 52428800 device_memory_size: 151397597184 memory_bandwidth: 4800000000000
}
"""
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\(")
NO_KERNEL = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
    *("while", "conditional", "call", "fusion-done", "copy-done"),
)
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}


def compiled(case: Case) -> jax.stages.Compiled:
    """The step of a case, lowered from shapes alone."""
    device = topologies.get_topology_desc("h200", "cuda", target_config=H200, topology="1x1x1").devices[0]
    config = getattr(ModelConfig, case.model)()
    model = abstract_model(config, "bfloat16", case.heads)
    state = jax.eval_shape(lambda: start(case, model))
    frame = jax.ShapeDtypeStruct((case.batch, *case.image_size(config), 3), jnp.uint8)
    there = partial(jax.ShapeDtypeStruct, sharding=SingleDeviceSharding(device))
    arguments = jax.tree.map(lambda x: there(x.shape, x.dtype), (model, state, frame))
    mesh = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu"))
    with jax.default_device(device), jax.sharding.use_abstract_mesh(mesh):
        return step.trace(*arguments).lower(lowering_platforms=("cuda",)).compile()


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
    program = compiled(tyro.cli(Case))
    memory = program.memory_analysis()
    print(program.as_text())
    report(f"compiled in {time.perf_counter() - began:.0f} s")
    report(
        f"arguments {memory.argument_size_in_bytes / 1e9:.2f} GB, temporaries {memory.temp_size_in_bytes / 1e9:.2f} GB"
    )
    kinds: Counter[str] = Counter()
    copied: Counter[str] = Counter()
    asked = 0
    for times, name, shape, operation, line in executed(*computations(program.as_text()), 1):
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
