"""What a file of tensors is: VGGT under whatever wrappers a trainer put around it, an adapter, or another network."""

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

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
"""What DataParallel, torch.compile, FSDP, activation checkpointing and Fabric put into names, at any depth."""
ORDINARY = frozenset({"model", "net", "network", "state_dict", "model_state_dict", "encoder", "vggt"})
"""What trainers call the network that they train, as opposed to its average or its teacher."""
BUFFERS = frozenset({"_resnet_mean", "_resnet_std", "image_mean", "image_std", "rope", "inv_freq", "position_getter"})
"""Constants that every implementation has in its code, and some in their files."""
NETWORKS = {
    "Pi3": {"point_decoder", "camera_decoder", "register_token"},
    "MapAnything": {"info_sharing", "encoder"},
    "Depth Anything 3": {"backbone", "pretrained"},
    "Depth Anything": {"pretrained", "depth_head"},
    "of the DUSt3R family (DUSt3R, MASt3R, MonST3R, CUT3R, …)": {"enc_blocks", "dec_blocks"},
    "DINOv2": {"cls_token", "pos_embed", "blocks"},
}
"""Networks that are taken for VGGT, by parts of names that together only they have; the first that fits is meant."""
_ANCHOR = f"{TRUNK}.camera_token"
_ADAPTERS = ("lora", "hada_", "lokr_", "oft_", "magnitude_vector")


@dataclass(frozen=True)
class Recognised:
    """VGGT's tensors as a file has them."""

    tensors: Mapping[str, np.ndarray]
    """Under published names."""
    heads: tuple[str, ...]
    """Those that the file has."""
    left_out: str
    """What else the file holds, for people: "gaussian_head (42 tensors)"; empty when there is nothing."""


def open_vggt(path: Path, config: ModelConfig) -> Recognised:
    """Open the weights of a file or folder of PyTorch's and find VGGT in it; says on standard error what else is there.

    Raises CheckpointError for what is not VGGT and for tensors that do not fit the configuration, the first of them named.
    """
    found = recognise(open_tensors(path), config, f"{path}")
    if problems := find_mismatches(found.tensors, config, found.heads):
        hint = "" if config != ModelConfig.vggt_1b() else "; for other shapes give `python -m convert` their --config"
        raise CheckpointError(f"{path}: {len(problems)} tensors do not fit the model{hint}:{list_problems(problems)}")
    if found.left_out:
        print(f"{path}: left out, as VGGT has no such parts: {found.left_out}", file=sys.stderr)
    return found


def recognise(tensors: Mapping[str, np.ndarray], config: ModelConfig, what: str) -> Recognised:
    """Find VGGT among the tensors of a file; looks at names alone.

    Wrappers and a common prefix are taken off. A head that is not there is left out, and so is a module that VGGT has not.
    Whatever else stands inside VGGT's own modules stays, for `find_mismatches` to name: without it the network would
    compute something else than it was trained for.

    Raises CheckpointError, beginning with `what`, for an adapter, for another network and for several at once.
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
    """Names in the file by names without what wraps modules."""
    plain: dict[str, str] = {}
    for name in tensors:
        parts = name.split(".")
        if any(part.startswith(_ADAPTERS) for part in parts):
            raise CheckpointError(
                f"{what} is an adapter or holds one ({name}), such as LoRA: changes to a model, not the model; merge it where "
                "it was trained (with peft: model.merge_and_unload()) and save the weights of the result"
            )
        short = ".".join(part for part in parts if part not in WRAPPERS)
        if short in plain:
            raise CheckpointError(f"{what} has two tensors for {short}: {plain[short]} and {name}")
        plain[short] = name
    return plain


def _find_root(names: Collection[str], what: str) -> str:
    """What precedes VGGT's own names, with its dot. Raises CheckpointError unless it is there once."""
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
    """Says of what has no VGGT in it which network it is, or what it consists of."""
    parts = {part for name in names for part in name.split(".")}
    for network, own in NETWORKS.items():
        if own <= parts:
            return f"is another network, {network}; VGGT, StreamVGGT and InfiniteVGGT are what is read here"
    modules = Counter(map(_first, names)).most_common(6)
    listed = ", ".join(f"{name} ({count_tensors(count)})" for name, count in modules)
    return f"is not VGGT: it has no module {TRUNK}; it consists of {listed or 'nothing'}"


def count_tensors(count: int) -> str:
    """So many tensors, in words."""
    return "1 tensor" if count == 1 else f"{count:,} tensors"


def _first(name: str) -> str:
    return name.partition(".")[0]
