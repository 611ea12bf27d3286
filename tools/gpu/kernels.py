"""On a GPU: what do our kernels save, and what does a step spend its time on? python tools/gpu/kernels.py

The first part compares them with what XLA and cuDNN do in their place, at the sizes of one layer of the full model at its
default budget; the second counts a step's time by kernel, with that budget full.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from attention_on_hopper import attend_hopper
from diversity_on_hopper import diversity_hopper

from ivggt_jax.bench.case import Case, fill, make_frames, make_model, start
from ivggt_jax.kernels import attention_in_place as attention
from ivggt_jax.kernels.attention_in_place import attend_in_place
from ivggt_jax.kernels.diversity_in_place import diversity_in_place
from ivggt_jax.kernels.moves import plan_moves
from ivggt_jax.memory import cache
from ivggt_jax.memory.cache import quantise
from ivggt_jax.memory.policies import diversity
from ivggt_jax.streaming.steps import step

LENGTH, SLOTS, TOKENS, HEADS, DIM = 51_041, 76_288, 1_041, 16, 64
HOPPER = (11, 128, 4), (11, 128, 2), (4, 128, 4), (22, 128, 4), (11, 64, 6)
STEPS = 5


def milliseconds(function: Callable, *arguments: object) -> float:
    """Time of a call among 20 in flight; the best of three runs."""
    run = jax.jit(function)
    jax.block_until_ready(run(*arguments))
    best = np.inf
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready([run(*arguments) for _ in range(20)])
        best = min(best, (time.perf_counter() - began) / 20)
    return 1e3 * best


def distance(found: jax.Array, expected: jax.Array) -> float:
    """Relative, in the Euclidean norm; NaN where anything is."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def row(what: str, function: Callable, arguments: tuple, exact: jax.Array) -> None:
    """Of the table: a kernel is checked first, then timed."""
    error = distance(jax.jit(function)(*arguments), exact)
    print(f"| {what} | {milliseconds(function, *arguments):.3f} | {error:.1e} |")


def kernels() -> None:
    """Each beside what it replaces. NaN in dead slots must have no influence."""
    key, layer, length = jax.random.key(0), jnp.int32(1), jnp.array([LENGTH], jnp.int32)
    query = jax.random.normal(key, (1, TOKENS, HEADS, DIM), jnp.bfloat16)
    keys, values = jax.random.normal(jax.random.fold_in(key, 1), (2, 2, 1, SLOTS, HEADS, DIM), jnp.bfloat16)
    poisoned = [x.at[:, :, LENGTH:].set(jnp.nan) for x in (keys, values)]
    whole = [x.astype(jnp.float32) for x in (query, keys[1, :, :LENGTH], values[1, :, :LENGTH])]
    with jax.default_matmul_precision("highest"):
        of_head = jax.jit(lambda *x: jax.nn.dot_product_attention(*x))
        exact = np.concatenate([of_head(*(x[:, :, h : h + 1] for x in whole)) for h in range(HEADS)], axis=2)

    def cudnn(query, keys, values, layer, length):
        return jax.nn.dot_product_attention(
            query, keys[layer], values[layer], implementation="cudnn",
            key_value_seq_lengths=length, query_seq_lengths=jnp.full_like(length, TOKENS),
        )  # fmt: skip

    print("| of one layer | ms | error |\n|---|---|---|")
    row("attention, cuDNN", cudnn, (query, keys, values, layer, length), exact)
    inputs = query, *poisoned, layer, length
    row("attention in place", attend_in_place, inputs, exact)
    chosen = attention.PARTS
    for parts in (2, 6, 8, 12, chosen):
        attention.PARTS = parts
        again = milliseconds(lambda *x: attend_in_place(*x), *inputs)  # a new function is compiled anew
        print(f"| … with the keys in {parts} parts | {again:.3f} | |")
    on_hopper = jax.local_devices()[0].compute_capability == "9.0"
    for parts, block, stages in HOPPER if on_hopper else ():
        candidate = partial(attend_hopper, parts=parts, block=block, stages=stages)
        row(f"… by Hopper's instructions, {parts} parts, {stages} blocks of {block} ahead", candidate, inputs, exact)
    (keys8, key_scale), (values8, value_scale) = jax.jit(quantise)(keys), jax.jit(quantise)(values)
    inputs = query, keys8, values8, layer, length, (key_scale, value_scale)
    row("attention in place, int8", attend_in_place, inputs, exact)

    live = jnp.arange(SLOTS) < length[:, None]
    candidates = jnp.broadcast_to((live & (jnp.arange(SLOTS) >= TOKENS))[:, None], (1, HEADS, SLOTS))

    def plain(keys, layer, length, candidates):
        return jnp.where(live[:, None], diversity(keys[layer], live, candidates), 0)

    inputs = keys, layer, length, candidates
    exact = jax.jit(plain)(*inputs)
    print(f"| redundancy, XLA | {milliseconds(plain, *inputs):.3f} | |")
    in_place = {"redundancy in place": diversity_in_place, "… by Hopper's instructions": diversity_hopper}
    for what, kernel in list(in_place.items())[: 1 + on_hopper]:
        row(what, kernel, (poisoned[0], *inputs[1:]), exact)
        row(f"{what}, int8", kernel, (keys8, *inputs[1:], key_scale), exact)

    inputs = jnp.where(candidates, exact, -jnp.inf), length, length - TOKENS
    sorting, kernel = (partial(plan, most=2 * TOKENS) for plan in (cache.moves_by_sorting, plan_moves))
    same = jax.tree.map(jnp.array_equal, jax.jit(sorting)(*inputs), jax.jit(kernel)(*inputs))
    print(f"| moves, by sorting | {milliseconds(sorting, *inputs):.3f} | |")
    print(f"| … in one kernel | {milliseconds(kernel, *inputs):.3f} | {'none' if all(same) else 'OTHERS'} |")


def profile(case: Case) -> None:
    """Milliseconds of a step by kernel."""
    model = make_model(case).only_heads(case.heads)
    frames = make_frames(case, model.config, 4)
    state = fill(start(case, model), case.seen)
    for frame in frames:
        state, predictions = step(model, state, frame[0])
    jax.block_until_ready(predictions)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            began = time.perf_counter()
            for index in range(STEPS):
                state, predictions = step(model, state, frames[index % 4, 0])
            jax.block_until_ready(predictions)
            wall = time.perf_counter() - began
        trace = jax.profiler.ProfileData.from_file(str(next(Path(folder).rglob("*.xplane.pb"))))
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for plane in trace.planes:
        for line in plane.lines if "GPU" in plane.name else ():
            for event in line.events if line.name.startswith("Stream") else ():
                spent[event.name] += event.duration_ns
                calls[event.name] += 1
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    running = sum(spent.values()) / STEPS / 1e6
    print(f"\n{1e3 * wall / STEPS:.1f} ms a frame with {STEPS} in flight, of which kernels run {running:.1f} ms")
    print(f"at most {peak / 1e9:.2f} GB\n\n| kernel | ms | calls |\n|---|---|---|")
    for name, nanoseconds in spent.most_common(30):
        print(f"| {name[:70]} | {nanoseconds / STEPS / 1e6:.2f} | {calls[name] / STEPS:.0f} |")


if __name__ == "__main__":
    kernels()
    profile(Case())
