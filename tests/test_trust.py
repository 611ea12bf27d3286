"""What `run.json` says of how far images confirm the cameras."""

from types import SimpleNamespace

import numpy as np
import pytest

from ivggt_jax import CacheConfig, SubmapConfig, load, stream
from ivggt_jax.evaluate.walks import Walk
from ivggt_jax.writers.trust import FEWEST, LENGTH, MOST, Trust


def seen(refined: bool, part: int = 0) -> SimpleNamespace:
    """What the map says of a frame."""
    return SimpleNamespace(refined=refined, agreement=0.6, link_spread=0.02, part=part)


def watched(*stretches: tuple[int, bool]) -> Trust:
    """So many frames, refined or not, one stretch after the other."""
    trust = Trust({})
    for index, refined in enumerate(refined for count, refined in stretches for _ in range(count)):
        trust.add(index, seen(refined))
    return trust


def test_stretches_have_their_frames_and_means() -> None:
    trust = watched((60, True), (40, False), (50, True))
    trust.add(150, seen(True, part=2))
    first, second = trust.record()
    assert first == {
        "frames": [0, 99],
        "refined": 0.6,
        "agreement": pytest.approx(0.6),
        "link_spread": pytest.approx(0.02),
        "parts_begun": 0,
    }
    assert second["frames"] == [100, 150] and second["refined"] == 1 and second["parts_begun"] == 2
    assert trust.doubt() is None


def test_what_the_images_do_not_confirm_is_doubted() -> None:
    trust = watched((LENGTH, True), (LENGTH, False), (LENGTH, True), (51, False), (49, True), (FEWEST - 1, False))
    assert "in 2 of 4 stretches of 100 frames, first in frames 100 to 199" in trust.doubt()


def test_stretches_are_named_by_the_sources_frames() -> None:
    """Of every seventh frame."""
    trust = Trust({})
    for number in range(2 * LENGTH):
        trust.add(7 * number, seen(refined=number < LENGTH))
    assert [x["frames"] for x in trust.record()] == [[0, 693], [700, 1393]]
    assert "in 1 of 2 stretches of 100 frames, first in frames 700 to 1393" in trust.doubt()


def test_a_run_without_submaps_is_not_judged() -> None:
    trust = Trust({})
    trust.add(0, None)
    assert trust.record() == [] and trust.doubt() is None


@pytest.mark.parametrize("stopped", [1, 99, 100, 101, MOST * LENGTH, MOST * LENGTH + 1])
def test_an_endless_run_keeps_few_stretches_and_goes_on_where_it_was(stopped: int) -> None:
    """Twice as many frames as there are stretches for, then they are twice as long; a part begins every 1,000 frames."""
    frames = [seen(number % 3 > 0, number // 1000) for number in range(2 * MOST * LENGTH)]
    whole, first = Trust({}), Trust({})
    for index, frame in enumerate(frames):
        whole.add(index, frame)
        if index < stopped:
            first.add(index, frame)
    second = Trust(first.state())
    for index, frame in enumerate(frames[stopped:], stopped):
        second.add(index, frame)
    assert second.record() == whole.record()
    record = whole.record()
    assert len(record) == MOST and record[-1]["frames"] == [len(frames) - 2 * LENGTH, len(frames) - 1]
    assert sum(x["parts_begun"] for x in record) == (len(frames) - 1) // 1000
    assert np.mean([x["refined"] for x in record]) == pytest.approx(2 / 3, abs=1e-4)


@pytest.mark.slow
def test_a_walk_is_trusted_and_noise_is_not() -> None:
    """The demo model on 48 frames of a walk around a room, and on as many of white noise: shares of refined poses."""
    model, found = load("demo"), []
    for images in (
        Walk("return", 1048676, 84, 112).part(0, 48).images,
        np.random.default_rng(0).integers(0, 255, (48, 84, 112, 3), np.uint8),
    ):
        trust = Trust({})
        cache = CacheConfig(total_budget=15_264)
        stretch = stream(model, images, cache, heads=("camera", "depth"), submaps=SubmapConfig())
        for index, seen in enumerate(stretch):
            trust.add(index, seen.map)
        found.append((trust.record()[0]["refined"], trust.doubt()))
    (walk, nothing), (noise, doubt) = found
    assert walk >= 0.8 and nothing is None
    assert noise <= 0.1 and doubt is not None
