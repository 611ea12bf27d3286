"""Tracks: as a file, in pixels of the originals, and as the trails that are drawn."""

import contextlib
import dataclasses

import numpy as np
import pytest
from PIL import Image
from writer_scene import FITS, HEIGHT, WIDTH, known_pixels, result, tracked

from ivggt_jax.cameras.known import KnownCamera
from ivggt_jax.cameras.models import Camera
from ivggt_jax.writers import ExportOptions, Writers
from ivggt_jax.writers.trails import LENGTH, Trails, colour


def follow(places, seen=None) -> Trails:
    """Trails of points [frame, N, 2]."""
    trails = Trails()
    for number, tracks in enumerate(places):
        trails.add(result(0, tracks=np.float32(tracks), visibility=None if seen is None else np.float32(seen[number])))
    return trails


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_the_file_holds_pixels_of_the_originals(fit, tmp_path):
    writers = Writers(["tracks"], tmp_path, ExportOptions())
    for index in (0, 8):
        writers.write(tracked(index, fit))
    writers.close()
    lines = np.loadtxt(tmp_path / "tracks.txt", ndmin=2)
    np.testing.assert_array_equal(lines[:, 0], (0, 8))
    found = lines[:, 1:].reshape(2, -1, 3)
    _, pixels = known_pixels(result(0, fit))
    np.testing.assert_allclose(found[0, :, :2], pixels, atol=2e-3)
    np.testing.assert_array_equal(found[..., 2], [tracked(index, fit).visibility for index in (0, 8)])
    assert 0 < found[1, :, 2].sum() < found.shape[1]


def test_a_calibrated_lens_distorts_them_again(tmp_path):
    lens = Camera("brown", (150.0, 150.0), (84.0, 56.0), (-0.1, *7 * [0.0]), (WIDTH, HEIGHT))
    known = KnownCamera(lens, (150.0, 150.0))
    item = tracked(0)
    item = dataclasses.replace(item, frame=dataclasses.replace(item.frame, camera=known))
    writers = Writers(["tracks"], tmp_path, ExportOptions())
    writers.write(item)
    writers.close()
    found = np.loadtxt(tmp_path / "tracks.txt", ndmin=2)[0, 1:].reshape(-1, 3)[:, :2]
    np.testing.assert_allclose(known.from_original(found, HEIGHT, WIDTH), item.tracks, atol=5e-3)
    assert np.abs(found - item.tracks).max() > 1


def test_a_run_without_tracks_says_which_head_is_missing(tmp_path):
    writers = Writers(["tracks"], tmp_path, ExportOptions())
    with contextlib.closing(writers), pytest.raises(ValueError, match="add tracks to --heads"):
        writers.write(result(0))


def test_a_trail_reaches_back_to_where_the_point_was_hidden():
    places = np.arange(12.0).reshape(3, 2, 2)
    (first, whole), (second, short) = follow(places, [(1, 0), (1, 1), (1, 1)]).lines()
    assert (first, second) == (0, 1)
    np.testing.assert_array_equal(whole, places[:, 0])
    np.testing.assert_array_equal(short, places[1:, 1])
    assert [number for number, _ in follow(places, [(1, 1), (1, 1), (0, 1)]).lines()] == [1]


def test_trails_are_short_and_end_where_there_are_no_tracks():
    trails = follow(np.zeros((LENGTH + 5, 3, 2)))
    assert [len(trail) for _, trail in trails.lines()] == [LENGTH] * 3
    assert [len(trail) for _, trail in Trails(trails.state()).lines()] == [LENGTH] * 3
    trails.add(result(0))
    assert trails.lines() == [] == Trails(trails.state()).lines()


def test_they_are_drawn_at_the_pictures_size():
    picture = Image.new("RGB", (3 * WIDTH, 3 * HEIGHT))
    follow([[(20, 30)], [(40, 30)]]).draw(picture, WIDTH)
    drawn = np.asarray(picture).any(axis=2)
    assert (
        np.asarray(picture)[91, 61:122] == colour(0)
    ).all()  # the middle of pixel 20 of 168 is that of pixel 61 of 504
    assert not drawn[:80].any() and not drawn[102:].any() and not drawn[:, :55].any()
