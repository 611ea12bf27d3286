"""The camera ring against a dictionary that remembers everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_reference import attention

from ivggt_jax.memory.ring import CameraMemory, CameraRing, ring_slot

LAYERS, BATCH, FRAMES, ITERATIONS, HEADS, DIM = 2, 3, 4, 3, 2, 5
BEHIND = np.array([0, 1, 6])
"""How many frames each stream starts after the first one."""


def remembered(frame: int) -> list[int]:
    """The frames that a ring of FRAMES still holds, the first one among them, the current one last."""
    return sorted({0, *range(max(0, frame - FRAMES + 2), frame + 1)})


@pytest.mark.parametrize("mode", ["reference", "per_iteration"])
def test_attends_to_what_it_remembers(mode):
    """13 frames, so that the ring of 4 turns round; three streams out of step (seed 0, 1e-5)."""
    random = np.random.default_rng(0)
    ring = CameraRing.empty(LAYERS, BATCH, FRAMES, ITERATIONS, HEADS, DIM)
    attend = jax.jit(CameraMemory.attend)
    stored = {}
    for t in range(13):
        # A stream that has not begun yet is at its frame 0 again and again.
        frame = np.maximum(t - BEHIND, 0)
        for iteration in range(ITERATIONS):
            for layer in range(LAYERS):
                query, keys, values = random.normal(size=(3, BATCH, 1, HEADS, DIM)).astype(np.float32)
                memory = CameraMemory(ring, jnp.asarray(frame), mode)
                found, memory = attend(memory, iteration * LAYERS + layer, query, keys, values)
                ring = memory.ring
                for b, now in enumerate(frame):
                    stored[b, layer, now, iteration] = keys[b, 0], values[b, 0]
                    seen = [
                        stored[b, layer, past, turn]
                        for past in remembered(now)
                        for turn in range(ITERATIONS)
                        if (turn == iteration if mode == "per_iteration" else past < now or turn <= iteration)
                    ]
                    past_keys, past_values = (np.stack(x)[None] for x in zip(*seen, strict=True))
                    everything = np.ones((1, 1, len(seen)), bool)
                    expected = attention(query[b : b + 1], past_keys, past_values, everything)
                    np.testing.assert_allclose(found[b : b + 1], expected, rtol=0, atol=1e-5)


def test_first_frame_is_pinned_and_the_oldest_other_is_replaced():
    held = {}
    for frame in range(20):
        held[int(ring_slot(jnp.int32(frame), FRAMES))] = frame
        assert sorted(held.values()) == remembered(frame)


def test_smallest_ring():
    """The first frame and the current one."""
    assert [int(ring_slot(jnp.int32(frame), 2)) for frame in range(4)] == [0, 1, 1, 1]
