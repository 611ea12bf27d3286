"""Recognises what a file of tensors is: VGGT, whatever wrappers a trainer put around it; an adapter; or another network."""

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ivggt_jax.config import ModelConfig
from ivggt_jax.convert.assembly import find_mismatches, torch_shapes
from ivggt_jax.convert.names import HEAD_MODULES, TRUNK
from ivggt_jax.convert.renamed import Renamed
from ivggt_jax.convert.torch_file import open_tensors
from ivggt_jax.weights.tensor_file import CheckpointError, list_problems
from ivggt_jax.weights.weight_files import ADAPTER

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
"""Name parts that DataParallel, torch.compile, FSDP, activation checkpointing and Fabric insert, at any depth."""
ORDINARY = frozenset({"model", "net", "network", "state_dict", "model_state_dict", "encoder", "vggt"})
"""Names that trainers give the network they train, as opposed to its average or its teacher."""
BUFFERS = frozenset({"_resnet_mean", "_resnet_std", "image_mean", "image_std", "rope", "inv_freq", "position_getter"})
"""Constants that every implementation has in its code, and some also in their files."""
NETWORKS = {
    "Pi3": {"point_decoder", "camera_decoder", "register_token"},
    "MapAnything": {"info_sharing", "encoder"},
    "Depth Anything 3": {"backbone", "pretrained"},
    "Depth Anything": {"pretrained", "depth_head"},
    "of the DUSt3R family (DUSt3R, MASt3R, MonST3R, CUT3R, …)": {"enc_blocks", "dec_blocks"},
    "DINOv2": {"cls_token", "pos_embed", "blocks"},
}
"""Networks that may be confused with VGGT, by name parts that only they have in this combination; the first match counts."""
_ANCHOR = f"{TRUNK}.camera_token"
_ADAPTERS = ("lora", "hada_", "lokr_", "oft_", "magnitude_vector")


@dataclass(frozen=True)
class Recognised:
    """The VGGT tensors found in a file."""

    tensors: Mapping[str, np.ndarray]
    """Under published names."""
    heads: tuple[str, ...]
    """Heads that the file has."""
    left_out: str
    """Other content of the file, for people: "gaussian_head (42 tensors)"; empty if there is none."""


def open_vggt(path: Path, config: ModelConfig) -> Recognised:
    """Open a PyTorch file or folder and find VGGT in it. Reports other content on standard error.

    Raises CheckpointError for files without VGGT, and for tensors that do not fit the configuration, naming the first ones.
    """
    found = recognise(open_tensors(path), config, f"{path}")
    if problems := find_mismatches(found.tensors, config, found.heads):
        hint = "" if config != ModelConfig.vggt_1b() else "; for other shapes give `python -m convert` their --config"
        raise CheckpointError(f"{path}: {len(problems)} tensors do not fit the model{hint}:{list_problems(problems)}")
    if found.left_out:
        print(f"{path}: left out, as VGGT has no such parts: {found.left_out}", file=sys.stderr)
    return found


def recognise(tensors: Mapping[str, np.ndarray], config: ModelConfig, what: str) -> Recognised:
    """Find VGGT among the tensors of a file, by their names alone.

    Wrappers and a common prefix are removed. Missing heads, and modules that VGGT does not have, are left out. Anything unknown
    inside VGGT's own modules is kept for `find_mismatches` to report, because without it the network would not compute what it
    was trained for.

    Raises CheckpointError, beginning with `what`, for an adapter, for another network, and for several networks at once.
    """
    plain = _without_wrappers(tensors, what)
    root = _find_root(plain, what)
    expected = torch_shapes(config)
    modules = {TRUNK, *(_first(name) for name in expected if root + name in plain)}
    heads = tuple(head for head, module in HEAD_MODULES.items() if module in modules)
    ours: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for name, original in plain.items():
        inside = name.removeprefix(root) if name.startswith(root) else ""
        if _first(inside) not in modules:
            left_out[_first(inside or name)] += 1
        elif inside not in expected and not BUFFERS.isdisjoint(inside.split(".")):
            left_out[inside] += 1
        else:
            ours[inside] = original
    text = ", ".join(f"{name} ({count_tensors(count)})" for name, count in left_out.items())
    return Recognised(Renamed(tensors, ours), heads, text)


def _without_wrappers(tensors: Iterable[str], what: str) -> dict[str, str]:
    """Names in the file, by the names without wrappers."""
    plain: dict[str, str] = {}
    for name in tensors:
        parts = name.split(".")
        if any(part.startswith(_ADAPTERS) for part in parts):
            raise CheckpointError(f"{what} is an adapter or holds one ({name}), {ADAPTER}")
        short = ".".join(part for part in parts if part not in WRAPPERS)
        if short in plain:
            raise CheckpointError(f"{what} has two tensors for {short}: {plain[short]} and {name}")
        plain[short] = name
    return plain


def _find_root(names: Collection[str], what: str) -> str:
    """The prefix of VGGT's own names, including its dot. Raises CheckpointError unless VGGT occurs exactly once."""
    trunks = [(name, f".{name}".find(f".{TRUNK}.")) for name in names]
    roots = {name[:begin] for name, begin in trunks if begin >= 0}
    roots = {root for root in roots if f"{root}{_ANCHOR}" in names} or roots
    if not roots:
        raise CheckpointError(f"{what} {_describe_other(names)}")
    ordinary = {root for root in roots if ORDINARY.issuperset(root.split(".")[:-1])}
    if len(roots) == 1 or len(ordinary) == 1:
        return (ordinary or roots).pop()
    places = ", ".join(root.removesuffix(".") or "the top" for root in sorted(roots))
    raise CheckpointError(f"{what} holds {len(roots)} networks, under {places}; save the one that you want alone")


def _describe_other(names: Collection[str]) -> str:
    """For names without VGGT among them, describe which network they belong to, or what they consist of."""
    if f"{TRUNK}/camera_token" in names:
        return "is part of a converted checkpoint: give the folder that it is in"
    parts = {part for name in names for part in name.split(".")}
    for network, own in NETWORKS.items():
        if own <= parts:
            return f"is another network, {network}; VGGT, StreamVGGT and InfiniteVGGT are what is read here"
    modules = Counter(map(_first, names)).most_common(6)
    listed = ", ".join(f"{name} ({count_tensors(count)})" for name, count in modules)
    return f"is not VGGT: it has no module {TRUNK}; it consists of {listed or 'nothing'}"


def count_tensors(count: int) -> str:
    """A number of tensors, in words."""
    return "1 tensor" if count == 1 else f"{count:,} tensors"


def _first(name: str) -> str:
    return name.partition(".")[0]
