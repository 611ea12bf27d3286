"""Frames in, cameras and depth out, with the programs beside this file. Needs jax, numpy, and flatbuffers for jax.

artifact = Artifact("folder")  # load only what you trust: executables are code
state = artifact.start()
for images in video:  # uint8 [B,H,W,3], of the shape in manifest.json
    state, found = artifact.step(state, images)  # the given state is used up
    print(found["cam_from_world"], found["depth"])  # manifest.json lists all names
state = artifact.reset(state, where)  # bool [B]: these streams start over
"""

import hashlib
import json
from pathlib import Path
from platform import machine
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.experimental.serialize_executable import deserialize_and_load

DTYPES = {"F32": jnp.float32, "BF16": jnp.bfloat16}


def this_device() -> str:
    """The device that executables are made for: its kind and, for a CPU, its instruction set, without which they may crash."""
    kind = jax.devices()[0].device_kind
    if jax.default_backend() != "cpu":
        return kind
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    features = sorted({line for line in lines if line.startswith(("flags", "Features"))})
    return f"{kind} {machine()} {hashlib.sha256(' '.join(features).encode()).hexdigest()[:16]}"


class Artifact:
    """A loaded artefact. Raises ValueError for a damaged file, or without programs for this machine's kind of device."""

    def __init__(self, folder: str | Path = Path(__file__).parent):
        self.folder = Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        platform = "cuda" if jax.default_backend() == "gpu" else jax.default_backend()
        if platform not in self.manifest["platforms"]:
            raise ValueError(f"there are no programs for {platform}, only for {self.manifest['platforms']}")
        tensors = self._read("weights.safetensors")
        begin, self._weights = 8 + int.from_bytes(tensors[:8], "little"), {}
        for name, x in json.loads(tensors[8:begin]).items():
            first, last = (begin + offset for offset in x["data_offsets"])
            array = np.frombuffer(tensors[first:last], DTYPES[x["dtype"]])
            self._weights[name] = jax.device_put(array.reshape(x["shape"]))
        self.start, self.reset = self._program("start", platform), self._program("reset", platform, 0)
        self._step = self._program("step", platform, 1)

    def step(self, state: list[jax.Array], images: np.ndarray) -> tuple[list[jax.Array], dict[str, jax.Array]]:
        """The next state, and the predictions for the next frame of each stream, by the names in manifest.json."""
        return self._step(self._weights, state, images)

    def _program(self, name: str, platform: str, *used_up: int) -> Any:
        exported = export.deserialize(bytearray(self._read(f"{name}.{platform}.export")))
        if self.manifest["executables"] == [platform, jax.__version__, this_device()]:
            jnp.linalg.solve(jnp.eye(2), jnp.ones(2))  # loads LAPACK, which CPU executables assume is there
            executable = self._read(f"{name}.{platform}.executable")
            return deserialize_and_load(executable, exported.in_tree, exported.out_tree)
        return jax.jit(exported.call, donate_argnums=used_up)

    def _read(self, name: str) -> bytes:
        if hashlib.sha256(content := (self.folder / name).read_bytes()).hexdigest() != self.manifest["sha256"][name]:
            raise ValueError(f"{self.folder / name} is damaged: its hash is not that of manifest.json")
        return content
