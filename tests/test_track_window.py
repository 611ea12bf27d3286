"""The track window against a dictionary that remembers everything."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ivggt_jax.memory.track_window import TrackWindow

POINTS, HEIGHT, WIDTH, FEATURES = 3, 4, 5, 2
BEHIND = np.array([0, 1, 6])
"""How many frames each stream starts after the first one."""


def fresh(frames: int) -> TrackWindow:
    queries = np.random.default_rng(0).normal(size=(len(BEHIND), POINTS, 2)).astype(np.float32)
    return TrackWindow.empty(jnp.asarray(queries), frames, HEIGHT, WIDTH, FEATURES)


def remembered(frame: int, frames: int) -> dict[int, int]:
    """Slot → frame: the query frame and the last ones, each in its place."""
    return {0: 0} | {1 + (t - 1) % (frames - 1): t for t in range(max(1, frame - frames + 2), frame + 1)}


@pytest.mark.parametrize("frames", [2, 3, 5])
def test_holds_the_query_frame_and_the_last_ones(frames):
    """14 frames of three streams out of step; a stream that has not begun is at its frame 0 again and again."""
    window, maps, tracks = fresh(frames), {}, {}
    for t in range(14):
        frame = np.maximum(t - BEHIND, 0)
        pushed = np.random.default_rng(t).normal(size=(len(BEHIND), HEIGHT, WIDTH, FEATURES)).astype(np.float32)
        window = window.push(jnp.asarray(frame), jnp.asarray(pushed))
        live, start = np.asarray(window.live(jnp.asarray(frame))), np.asarray(window.start(jnp.asarray(frame)))
        for b, now in enumerate(frame):
            maps[b, now] = pushed[b]
            held = remembered(now, frames)
            assert set(np.flatnonzero(live[b])) == set(held)
            assert held[int(window.slot(jnp.asarray(frame))[b])] == now
            for slot, past in held.items():
                np.testing.assert_array_equal(window.maps[b, slot], maps[b, past])
                expected = tracks[b, min(past, now - 1)] if now >= frames else window.query_points[b]
                np.testing.assert_array_equal(start[b, slot], expected)
        found = np.random.default_rng(100 + t).normal(size=window.coordinates.shape).astype(np.float32)
        window = window.store(jnp.asarray(found))
        for b, now in enumerate(frame):
            tracks |= {(b, past): found[b, slot] for slot, past in remembered(now, frames).items()}


def test_nothing_is_left_of_an_earlier_stream():
    """A stream that starts afresh looks neither at old maps nor at old coordinates, NaN included."""
    window, old = fresh(3), jnp.nan
    window = replace(window, maps=window.maps + old, coordinates=window.coordinates + old)
    for t in range(3):
        frame = jnp.full(len(BEHIND), t)
        window = window.push(frame, jnp.ones((len(BEHIND), HEIGHT, WIDTH, FEATURES)))
        seen = window.live(frame)
        assert jnp.isfinite(window.maps[seen]).all()
        assert jnp.isfinite(window.start(frame)).all()
        window = window.store(jnp.ones_like(window.coordinates))


def test_donated_maps_are_not_copied():
    window = fresh(8)
    push = jax.jit(TrackWindow.push, donate_argnums=0)
    compiled = push.lower(window, jnp.zeros(len(BEHIND), jnp.int32), window.maps[:, 0]).compile()
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= window.maps.nbytes
    assert memory.temp_size_in_bytes < window.maps.nbytes / 2
