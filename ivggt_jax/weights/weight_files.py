"""Finds the files of PyTorch weights: one file, shards with or without an index, or a folder from the Hub."""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from ivggt_jax.weights.tensor_file import CheckpointError, read_json

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
INDEX = ".index.json"
"""Suffix of the file that maps tensors to shards."""
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
_OTHERS = re.compile(r"(optimizer|scheduler|scaler|rng_state|training_args|random_states|adapter)[\w-]*\.\w+")
"""Files that trainers write next to the weights."""


ADAPTER = (
    "such as LoRA: changes to a model, not the model; merge it where it was trained (with peft: model.merge_and_unload()) and "
    "save the weights of the result"
)
"""What to do with an adapter, for error messages."""


def choose(names: Iterable[str], where: str) -> str:
    """The file of a folder to start with: an index, the first of several shards, or the only weight file.

    Safetensors take precedence over other formats of the same weights, and `model` and `pytorch_model` over other names. Raises
    CheckpointError, beginning with `where`, when there is none or there are several.
    """
    names = sorted(names)
    files = [name for name in names if name.endswith((*SUFFIXES, INDEX)) and not _OTHERS.fullmatch(name)]
    shards = {name: match for name in files if (match := _SHARD.fullmatch(name))}
    begins = {(match["stem"], match["count"], match["suffix"]): name for name, match in reversed(shards.items())}
    indexed = {name.removesuffix(INDEX) for name in files if name.endswith(INDEX)}
    starts = [name for (stem, _, suffix), name in begins.items() if stem + suffix not in indexed]
    starts += [name for name in files if name not in shards and name not in indexed]
    for suffix in SUFFIXES:
        found = [name for name in starts if name.removesuffix(INDEX).endswith(suffix)]
        usual = [name for name in found if re.match(r"(pytorch_)?model[.-]", name)]
        if len(found) == 1 or len(usual) == 1:
            return (usual or found)[0]
        if found:
            raise CheckpointError(
                f"{where} holds several files of weights: {', '.join(sorted(found))}; give one of them"
            )
    if any(name.startswith("adapter_model.") for name in names):
        raise CheckpointError(f"{where} is an adapter, {ADAPTER}")
    raise CheckpointError(f"{where} is not a checkpoint: it has no config.json of this project and no file of weights")


def shards_of(path: Path) -> list[str]:
    """Names of the files that belong together with this one, which may be an index, a shard or a complete file.

    Raises CheckpointError for an invalid index.
    """
    if path.name.endswith(".json"):
        return sorted(set(read_index(path).values()))
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path.name]
    count = int(match["count"])
    return [f"{match['stem']}-{number:05}-of-{count:05}{match['suffix']}" for number in range(1, count + 1)]


def read_index(path: Path) -> dict[str, str]:
    """The shard of each tensor. Raises CheckpointError."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{path} has no weight_map: not the index of a sharded checkpoint")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not shard or Path(shard).name != shard:
            raise CheckpointError(f"{path} places {name!r} in {shard!r}, which is not the name of a file beside it")
    return weight_map


def find_weights(path: Path) -> Path:
    """The file to start with, for a file or a folder. Raises CheckpointError, see `choose`."""
    if not path.is_dir():
        return path
    main = path / "refs" / "main"
    if main.is_file():  # a repository in the Hub's cache; its snapshots are named by commit
        path = path / "snapshots" / main.read_text().strip()
    names = os.listdir(path) if path.is_dir() else []
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        raise CheckpointError(
            f"{path} is a distributed checkpoint; where PyTorch is installed, make one file of it: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pth"
        )
    return path / choose(names, f"{path}")


def digest(path: Path) -> str:
    """SHA-256 of the weights that start with this file.

    For several shards it is the digest of the lines that `sha256sum` prints for them, the same with and without an index.
    """
    sums = []
    for name in shards_of(path):
        with open(path.parent / name, "rb") as file:
            sums.append((hashlib.file_digest(file, "sha256").hexdigest(), name))
    if len(sums) == 1:
        return sums[0][0]
    return hashlib.sha256("".join(f"{found}  {name}\n" for found, name in sums).encode()).hexdigest()
