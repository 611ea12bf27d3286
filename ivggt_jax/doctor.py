"""`python -m ivggt_jax.doctor`: reports what is installed, what fits in memory, what is wrong, and whether the model runs."""

import dataclasses
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ivggt_jax.config import CacheConfig, ModelConfig
from ivggt_jax.model.parameters import abstract_model
from ivggt_jax.runs.command import compiled_folder, run_command
from ivggt_jax.runs.fitting import default_budget, free_cache, stream_bytes, weights_bytes
from ivggt_jax.runs.memory import free_memory, gigabytes
from ivggt_jax.runs.room import Room
from ivggt_jax.streaming.steps import infer_clip, stream
from ivggt_jax.weights.hub import cache_folder

SHOWN = (
    "ivggt_jax",
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "pillow",
    "av",
    "viser",
    "rerun-sdk",
    "opencv-python-headless",
    "rosbags",
)
HEIGHT, WIDTH = 392, 518
"""Frame size for which budgets are quoted: that of a 4:3 video at the published size."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Literal["ok", "note", "problem"]
    text: str

    def __str__(self) -> str:
        return f"{self.level:>7}  {self.text}"


@dataclass(frozen=True)
class DoctorConfig:
    """The command has no options."""


def main(arguments: Sequence[str] | None = None, program: str = "python -m ivggt_jax.doctor") -> None:
    """The command line program."""
    run_command(DoctorConfig, doctor, arguments, program)


def doctor(config: DoctorConfig) -> int:
    """Check the installation, what fits in memory, and whether the model runs here. Exits with 1 if there is a problem."""
    installed = {d.name.lower().replace("_", "-"): d.version for d in distributions() if d.name}
    problems = 0
    for check in (
        lambda: versions(installed),
        lambda: devices(installed),
        lambda: nvidia_wheels(installed),
        lambda: memory(free_memory(), ModelConfig.vggt_1b()),
        folders,
        self_test,
    ):
        for finding in _until_it_fails(check):
            print(finding, flush=True)
            problems += finding.level == "problem"
    print(f"{problems} problem{'s' * (problems != 1)} found" if problems else "no problems found")
    return min(problems, 1)


def _until_it_fails(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check. What it raises is one, too: JAX that does not start, for instance."""
    try:
        yield from check()
    except Exception as error:  # a broken installation may raise anything
        yield Finding("problem", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def versions(installed: Mapping[str, str]) -> Iterator[Finding]:
    """Versions of Python, this library and its dependencies; `installed` maps distribution names to versions."""
    yield Finding("ok", f"Python {platform.python_version()} on {platform.platform()}")
    found = [(name, installed.get(name.replace("_", "-"))) for name in SHOWN]
    yield Finding("ok", ", ".join(f"{name} {version}" for name, version in found if version))
    extras = {"rerun-sdk": "rerun", "opencv-python-headless": "camera", "rosbags": "ros"}
    for name, version in found:
        if name in extras and not version:
            yield Finding("note", f"{name} is not installed: pip install 'ivggt_jax[{extras[name]}]' if you need it")


def devices(installed: Mapping[str, str]) -> Iterator[Finding]:
    """The devices that JAX uses, and the driver. A GPU that JAX does not use is a problem."""
    kinds = [device.device_kind for device in jax.local_devices()]
    yield Finding(
        "ok", f"JAX computes on {len(kinds)} × {kinds[0]} ({jax.default_backend()}, {os.cpu_count()} CPU cores)"
    )
    cards = _nvidia_cards()
    for card in cards:
        yield Finding("ok", f"GPU {card}")
    if cards and jax.default_backend() != "gpu":
        if os.environ.get("JAX_PLATFORMS") == "cpu":
            yield Finding("note", "JAX_PLATFORMS=cpu keeps JAX off the GPU")
        elif any(name.startswith("jax-cuda") for name in installed):
            yield Finding(
                "problem", "JAX's CUDA plugin is installed but does not start: python -c 'import jax; jax.devices()'"
            )
        else:
            yield Finding(
                "problem", "JAX does not use the GPU: pip install 'ivggt_jax[cuda13]' (or cuda12 for older drivers)"
            )


def nvidia_wheels(installed: Mapping[str, str]) -> Iterator[Finding]:
    """Packages that overwrite each other's CUDA libraries; pip installs them together without a warning."""
    families = {match[1] for name in installed if (match := re.fullmatch(r"nvidia-.+-cu(1[0-9])", name))}
    plugins = {match[1] for name in installed if (match := re.match(r"jax-cuda(1[0-9])-", name))}
    if len(families | plugins) > 1:
        both = " and ".join(f"CUDA {family}" for family in sorted(families | plugins))
        yield Finding(
            "problem",
            f"wheels for {both} are installed together and overwrite each other's cuDNN and NCCL: begin with a fresh "
            "environment and install one of ivggt_jax[cuda12], ivggt_jax[cuda13]",
        )
    elif plugins and "torch" in installed:
        yield Finding(
            "note",
            f"PyTorch {installed['torch']} and JAX share one cuDNN here: whichever is installed last changes the "
            "other's; give each an environment of its own (PyTorch is not needed, not even to convert weights)",
        )
    else:
        yield Finding("ok", "NVIDIA's wheels: " + (f"CUDA {', '.join(plugins | families)}" if families else "none"))


def memory(room: Room, config: ModelConfig) -> Iterator[Finding]:
    """The cache that fits in memory beside a model's weights, with this device's types."""
    free = room.free
    model = abstract_model(config, None, ("camera", "depth"))
    weights = weights_bytes(model)
    cache = CacheConfig(total_budget=default_budget(config, HEIGHT, WIDTH))
    needed = stream_bytes(model, cache, HEIGHT, WIDTH)
    yield Finding(
        "ok",
        f"memory: {gigabytes(free)} free of {room.bound}; the published model's weights take {gigabytes(weights)} with "
        f"camera and depth, its default cache of {cache.total_budget:,} tokens {gigabytes(needed)}",
    )
    try:
        fitting = free_cache(model, cache, HEIGHT, WIDTH, dataclasses.replace(room, free=max(0, free - weights)))
    except ValueError:
        yield Finding("note", "the published model does not fit here; smaller ones, such as the demo's, do")
        return
    if fitting != cache:
        yield Finding(
            "note", f"at {WIDTH}×{HEIGHT} a cache of {fitting.total_budget:,} tokens fits: a run lowers it by itself"
        )
    else:
        yield Finding("ok", "the default cache fits")


def folders() -> Iterator[Finding]:
    """Where weights and compiled programs are stored, and whether there is space."""
    try:
        folder, compiled = cache_folder(), compiled_folder()
        hub = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    except RuntimeError:
        yield Finding(
            "problem", "there is no home directory: set HOME, or IVGGT_CACHE and HF_HOME, to folders of yours"
        )
        return
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    yield Finding("ok", f"{folder} (IVGGT_CACHE) holds {gigabytes(size)}; its disk has {gigabytes(free)} free")
    if not (there.is_dir() and os.access(there, os.W_OK)):
        yield Finding("problem", f"{there} cannot be written: set IVGGT_CACHE to a folder of yours")
    if jax.config.values["jax_compilation_cache_dir"]:
        yield Finding("ok", f"{compiled} (JAX_COMPILATION_CACHE_DIR) keeps compiled programs")
    else:
        yield Finding("problem", "no folder keeps compiled programs: the warning above says why and what to set")
    yield Finding("ok", f"{hub} (HF_HOME) keeps downloads")


def self_test() -> Iterator[Finding]:
    """Run a tiny random model on this device: frame by frame it must predict the same as for the whole clip."""
    began = time.perf_counter()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 28, 42, 3), np.uint8)
    cache = CacheConfig(total_budget=None, max_frames=len(images), camera_cache="per_iteration")
    try:
        # Not Model.initialise: compiling its many small programs would take longer than everything else.
        shapes = abstract_model(ModelConfig.tiny(), None, ("camera", "depth"))
        half = jnp.bfloat16 in {x.dtype for x in jax.tree.leaves(shapes)}
        model = jax.tree.map(lambda x: jnp.asarray(0.1 * random.standard_normal(x.shape), x.dtype), shapes)
        whole = infer_clip(model, images[None], mode="causal", heads=("camera", "depth"))
        expected = np.asarray(whole.depth)[0]
        depth = np.stack([np.asarray(p.depth) for p in stream(model, images, cache, heads=("camera", "depth"))])
        difference = float(np.abs(depth - expected).max() / np.median(expected))
    except Exception as error:  # a broken installation may raise anything
        yield Finding("problem", f"self-test: {type(error).__name__}: {error}")
        return
    if difference < (0.1 if half else 0.01):  # False for NaN, too
        seconds = time.perf_counter() - began
        yield Finding("ok", f"self-test: a tiny model's stream and clip agree to {difference:.0e}, in {seconds:.0f} s")
    else:
        yield Finding("problem", f"self-test: a tiny model's stream and clip differ by {difference:.2g} in depth")


def _nvidia_cards() -> list[str]:
    """Name, driver and memory of each GPU as reported by nvidia-smi; empty without any."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [
        "{}, driver {}, {}".format(*re.split(r",\s*", line))
        for line in found.stdout.splitlines()
        if line.count(",") == 2
    ]


if __name__ == "__main__":
    main()
