"""What the GPU's way of computing costs in accuracy: python tools/gpu/errors.py

Each part of the step that is computed otherwise on a GPU than a textbook would, against float64 or, for whole predictions, against
float32. On a CPU, where the kernels run in Pallas's interpreter; the products of a real GPU add their own rounding, which
`kernels.py` measures there.
"""

import jax
import jax.numpy as jnp
import numpy as np
from kernels import distance
from scipy.special import erf

from ivggt_jax import CacheConfig, load, stream
from ivggt_jax.evaluate.walks import HELD_OUT_SEED, Walk
from ivggt_jax.kernels.attention_in_place import attend_in_place
from ivggt_jax.kernels.diversity_in_place import diversity_in_place
from ivggt_jax.kernels.moves import plan_moves
from ivggt_jax.memory.cache import moves_by_sorting, quantise
from ivggt_jax.model.heads import dpt
from ivggt_jax.model.layers import gelu
from ivggt_jax.model.parameters import Model, cast

SLOTS, LENGTH, TOKENS, HEADS, DIM, FRAMES = 1024, 1000, 256, 2, 64, 24
RANDOM = np.random.default_rng(0)


def row(name: str, found: jax.Array | np.ndarray, expected: np.ndarray) -> None:
    """A line of the table."""
    print(f"| {name} | {distance(found, expected):.1e} |")


def attention(query: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """softmax(q·kᵀ/√d)·v in float64, of [tokens,heads,dim] and the live of [slots,heads,dim]."""
    query, keys, values = (np.asarray(x, np.float64) for x in (query, keys[:LENGTH], values[:LENGTH]))
    scores = np.einsum("qhd,khd->hqk", query, keys) / np.sqrt(DIM)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), values)


def kernels() -> None:
    """The attention and redundancy kernels, of float32 and of int8 caches."""
    query, keys, values = (RANDOM.normal(size=(n, HEADS, DIM)).astype(np.float32) for n in (TOKENS, SLOTS, SLOTS))
    length = jnp.array([LENGTH], jnp.int32)
    found = attend_in_place(query[None], keys[None, None], values[None, None], 0, length, interpret=True)[0]
    row("attention in place: powers of two, those below 2^−126 are 0", found, attention(query, keys, values))

    (keys8, key_scale), (values8, value_scale) = quantise(keys), quantise(values)
    scales = key_scale[None, None], value_scale[None, None]
    found = attend_in_place(query[None], keys8[None, None], values8[None, None], 0, length, scales, interpret=True)[0]
    keys8, values8 = (np.float64(x) * np.float64(y)[..., None] for x, y in ((keys8, key_scale), (values8, value_scale)))
    row("… of an int8 cache, beside its rounding", found, attention(query, keys8, values8))

    candidates = jnp.broadcast_to(jnp.arange(SLOTS) < LENGTH, (1, HEADS, SLOTS))
    found = diversity_in_place(keys[None, None], 0, length, candidates, interpret=True)[0, :, :LENGTH]
    units = np.float64(keys[:LENGTH])
    units /= np.linalg.norm(units, axis=-1, keepdims=True)
    row("redundancy in place", found, np.einsum("khd,hd->hk", units, units.mean(0)))


def parts() -> None:
    """What else is written otherwise for a GPU."""
    x = np.float32(3 * RANDOM.normal(size=100_000))
    row("GELU by erf", gelu(x), 0.5 * np.float64(x) * (1 + erf(np.float64(x) / np.sqrt(2))))
    maps = np.float32(RANDOM.normal(size=(1, 28, 37, 16)))
    exact = np.einsum("hr,brwc,vw->bhvc", dpt._interpolation(28, 392), maps.astype(float), dpt._interpolation(37, 518))
    found = dpt._between(dpt._between(jnp.asarray(maps), 1, 392), 2, 518)
    row("interpolation by two taps", found, exact)
    inputs = (
        np.float32(np.round(RANDOM.normal(size=(1, HEADS, SLOTS)), 2)),
        jnp.array([SLOTS]),
        jnp.array([SLOTS - 100]),
    )
    others = sum(map(np.not_equal, plan_moves(*inputs, 100, interpret=True), moves_by_sorting(*inputs, 100))).sum()
    print(f"| what is evicted and what moves, chosen by the kernel | {others or 'none'} |")


def whole(model: Model) -> None:
    """Depth and cameras of the demo model with a bfloat16 trunk, whose residual stream is float32."""
    images = Walk("loop", HELD_OUT_SEED, 84, 112).part(0, FRAMES).images
    exact, found = (
        [(x.depth, x.pose_encoding) for x in stream(each, images, CacheConfig(total_budget=5088))]
        for each in (model, cast(model, "bfloat16"))
    )
    for index, name in enumerate(("depth", "cameras")):
        of_all = (np.stack([x[index] for x in each]) for each in (found, exact))
        row(f"bfloat16 trunk, float32 residual stream: {name} of {FRAMES} frames", *of_all)


if __name__ == "__main__":
    print("| part | relative error |\n|---|---|")
    kernels()
    parts()
    with jax.default_matmul_precision("highest"):
        whole(load("demo"))
