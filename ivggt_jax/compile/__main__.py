"""`python -m ivggt_jax.compile CHECKPOINT --out DIR`: exports a model as an artefact for deployment without this package."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.experimental.serialize_executable import serialize

from ivggt_jax.compile import artifact
from ivggt_jax.compile.options import CompileConfig
from ivggt_jax.compile.programs import export_programs, named
from ivggt_jax.config import CacheConfig
from ivggt_jax.disk.beside import written_beside
from ivggt_jax.mapping.options import SubmapOptions
from ivggt_jax.model.parameters import Model, flatten
from ivggt_jax.runs.command import run_command, say
from ivggt_jax.runs.fitting import default_budget
from ivggt_jax.sources.fit import parse_size, usual_size
from ivggt_jax.streaming.state import StreamState
from ivggt_jax.streaming.steps import init_stream
from ivggt_jax.weights import loading
from ivggt_jax.weights.tensor_file import write_safetensors
from ivggt_jax.writers.files import naming

VERSION = 1
LOADER = "artifact.py"
USED_UP = {"start": (), "step": (1,), "reset": (0,)}
"""Arguments of the programs that are donated."""


def main(arguments: Sequence[str] | None = None, program: str = "python -m ivggt_jax.compile") -> None:
    """The command line program."""
    run_command(CompileConfig, compile_artifact, arguments, program)


def compile_artifact(config: CompileConfig) -> int:
    """Export a model as an artefact for deployment: programs, weights and a loader that needs JAX but not this package."""
    if config.out.exists():
        raise ValueError(f"{config.out} exists: choose another --out")
    if config.batch < 1:
        raise ValueError(f"--batch must be at least 1, not {config.batch}")
    if not config.platforms or len(set(config.platforms)) < len(config.platforms):
        raise ValueError("--platforms needs cpu, cuda or both, each once")
    if not config.heads:
        raise ValueError("--heads needs at least one of camera, depth, points and motion")
    if config.executables and _here() not in config.platforms:
        raise ValueError(f"--executables are for {_here()}, on which JAX computes here: add it to --platforms")
    if find_spec("flatbuffers") is None:
        raise ValueError("programs are saved with flatbuffers: pip install 'ivggt_jax[deploy]'")
    size = None if config.size is None else parse_size(config.size)
    mapping = SubmapOptions(submaps=config.submaps, refine=config.refine)
    mapped = {"camera", "depth"} <= set(config.heads)
    if config.submaps not in ("auto", "off") and not mapped:
        raise ValueError("--submaps are linked by camera and depth: name both in --heads, or leave --submaps out")
    say(f"loading {config.checkpoint}")
    model = loading.load(config.checkpoint, config.precision).only_heads(config.heads)
    width, height = size or usual_size(model.config.image_size)
    budget = default_budget(model.config, height, width) if config.budget is None else config.budget

    def begin() -> StreamState:
        return init_stream(
            model,
            CacheConfig(total_budget=budget, policy=config.policy),
            height=height,
            width=width,
            batch=config.batch,
            heads=config.heads,
            submaps=mapping.choose(model.config, None) if mapped else None,
        )

    jax.eval_shape(begin)  # reports invalid options before a folder is created
    with naming(config.out):
        config.out.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(config.out, folder=True) as folder:
        write_artifact(folder, config, model, begin)
    say(f"{config.out}: {width}×{height} on {', '.join(config.platforms)}, keeping {budget:,} tokens for each stream")
    return 0


def write_artifact(folder: Path, config: CompileConfig, model: Model, begin: Callable[[], StreamState]) -> None:
    """Write programs, weights, loader and manifest into an empty folder."""
    weights = flatten(model.params)
    layout = {path: (x.shape, np.dtype(x.dtype)) for path, x in weights.items()}
    write_safetensors(folder / "weights.safetensors", layout, lambda path: np.asarray(weights[path]))
    shutil.copyfile(artifact.__file__, folder / LOADER)
    here = _here()
    found: dict[str, jax.ShapeDtypeStruct] = {}
    for platform in config.platforms:
        say(f"programs for {platform}")
        programs = export_programs(model, begin, platform)
        for name, program in programs.items():
            (folder / f"{name}.{platform}.export").write_bytes(program.serialize())
            if config.executables and platform == here:
                (folder / f"{name}.{platform}.executable").write_bytes(_executable(program, USED_UP[name]))
        _, found = jax.tree.unflatten(programs["step"].out_tree, programs["step"].out_avals)
    state = named(jax.eval_shape(begin))
    manifest = {
        "format": "ivggt_jax artifact",
        "version": VERSION,
        "made_with": {"ivggt_jax": version("ivggt_jax"), "jax": jax.__version__},
        "source": asdict(loading.identify(config.checkpoint)),
        "options": asdict(config) | {"out": config.out.name},
        "platforms": config.platforms,
        "executables": [here, jax.__version__, artifact.this_device()] if config.executables else None,
        "images": _shape(programs["step"].in_avals[-1]),
        "found": {name: _shape(x) for name, x in found.items()},
        "state": [{"name": name, **_shape(x)} for name, x in state.items()],
        "sha256": {path.name: _hash(path) for path in sorted(folder.iterdir())},
    }
    (folder / "manifest.json").write_text(f"{json.dumps(manifest, indent=1)}\n")


def _here() -> str:
    """The platform of this machine's device, as in file names."""
    return "cuda" if jax.default_backend() == "gpu" else jax.default_backend()


def _executable(program: export.Exported, used_up: tuple[int, ...]) -> bytes:
    """A program, compiled for this machine's device."""
    arguments, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    with _compiling_anew():
        compiled = jax.jit(program.call, donate_argnums=used_up).lower(*arguments).compile()
    return serialize(compiled)[0]


@contextmanager
def _compiling_anew() -> Iterator[None]:
    """Disable the compilation cache: on a CPU, a program loaded from it cannot be saved again, because parts are missing."""
    used = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # JAX decides only once whether to use it
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", used)
        reset_cache()


def _shape(x: Any) -> dict[str, Any]:
    return {"shape": x.shape, "dtype": x.dtype.name}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
