"""Places are kept evenly, in bounded memory, and come back from the disk bit by bit. Values: default_rng(0)."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ivggt_jax.mapping.features import MOST, SIDE
from ivggt_jax.mapping.places import Place, Places, place_type

CHANNELS = 6
RECORD = place_type(CHANNELS)


def some_places(count: int) -> Iterator[Place]:
    """Of every second submap, as where short ones leave none."""
    rng = np.random.default_rng(0)
    for number in range(count):
        yield Place(
            submap=2 * number,
            part=number // 3,
            descriptor=rng.normal(size=CHANNELS).astype(np.float16),
            submap_from_cam=rng.normal(size=(3, 3, 4)),
            focal=np.array(rng.uniform(0.5, 2)),
            pixels=rng.normal(size=(3, MOST, 2)).astype(np.float32),
            depth=rng.uniform(1, 2, (3, MOST)).astype(np.float32),
            patches=rng.integers(-127, 128, (3, MOST, SIDE**2), np.int8),
        )


def filled(path: Path | None, count: int, most: int) -> Places:
    places = Places(path, RECORD, most=most)
    for place in some_places(count):
        places.add(place)
    return places


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_place_comes_back_bit_by_bit(tmp_path: Path, on_disk: bool):
    places = filled(tmp_path / "places.bin" if on_disk else None, 5, most=8)
    for place in some_places(5):
        found = places.read(place.submap)
        assert (found.submap, found.part) == (place.submap, place.part)
        for name in ("descriptor", "submap_from_cam", "focal", "pixels", "depth", "patches"):
            np.testing.assert_array_equal(getattr(found, name), getattr(place, name), strict=True)
    np.testing.assert_array_equal(places.submaps, [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(places.parts, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(places.descriptors, [place.descriptor for place in some_places(5)])
    with pytest.raises(KeyError):
        places.read(1)
    places.close()


@pytest.mark.parametrize(("count", "every"), [(0, 1), (4, 1), (5, 2), (8, 2), (9, 4), (16, 4), (17, 8), (100, 32)])
def test_places_of_a_long_run_are_thinned_evenly(count: int, every: int):
    places = filled(None, count, most=4)
    np.testing.assert_array_equal(places.submaps, 2 * np.arange(0, count, every))
    assert len(places.descriptors) == len(places.submaps) <= 4
    assert places.report() == {"seen": count, "kept": len(places.submaps), "every": every}
    for submap in places.submaps:
        assert places.read(submap).submap == submap
    places.close()


def test_the_file_grows_with_the_logarithm_of_the_run(tmp_path: Path):
    sizes = []
    for count in (64, 128, 256):
        path = tmp_path / f"{count}.bin"
        filled(path, count, most=16).close()
        sizes.append(path.stat().st_size // RECORD.itemsize)
    assert sizes == [16 + 8 + 8, 16 + 3 * 8, 16 + 4 * 8]


@pytest.mark.parametrize("stopped", [0, 1, 3, 4, 5, 8, 9, 13, 20])
def test_a_resumed_run_has_the_same_bytes(tmp_path: Path, stopped: int):
    """Killed after 21 places, half a record more, and resumed from what was saved after `stopped` of them."""
    whole, killed = tmp_path / "whole.bin", tmp_path / "killed.bin"
    wanted = filled(whole, 25, most=4)
    filled(killed, 21, most=4).close()
    with killed.open("ab") as file:
        file.write(b"\xff" * (RECORD.itemsize // 2))
    resumed = Places(killed, RECORD, count=stopped, most=4)
    assert resumed.count == stopped
    for place in list(some_places(25))[stopped:]:
        resumed.add(place)
    assert resumed.report() == wanted.report()
    np.testing.assert_array_equal(resumed.submaps, wanted.submaps)
    np.testing.assert_array_equal(resumed.descriptors, wanted.descriptors)
    resumed.close()
    wanted.close()
    assert killed.read_bytes() == whole.read_bytes()


def test_a_file_of_other_places_is_refused(tmp_path: Path):
    path = tmp_path / "places.bin"
    filled(path, 3, most=4).close()
    data = path.read_bytes()
    for damaged in (data[:-1], data[RECORD.itemsize :], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(path)) + ".*--overwrite"):
            Places(path, RECORD, count=3, most=4)


def test_what_does_not_fit_is_refused():
    places = filled(None, 2, most=4)
    good = list(some_places(3))[2]
    with pytest.raises(ValueError, match=rf"a place's depth must be \[3, {MOST}\] here, not \[2, {MOST}\]"):
        places.add(replace(good, depth=good.depth[:2]))
    with pytest.raises(ValueError, match="submap 2 comes after that of submap 2"):
        places.add(replace(good, submap=2))
    with pytest.raises(ValueError, match="at least 2"):
        Places(None, RECORD, most=1)
    assert places.count == 2
    places.close()
