"""The pictures that COLMAP and nerfstudio models refer to: originals where they are at hand, and what the model saw."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from writer_scene import ALL, HEIGHT, WIDTH, originals, result, saved

from ivggt_jax.sources.image_file import read_image
from ivggt_jax.writers.nerfstudio import export_nerfstudio


@pytest.mark.parametrize("place", ["photos", "images"])
def test_originals_are_never_touched(place, tmp_path):
    items = [result(index) for index in range(2)]
    options = dataclasses.replace(ALL, images=originals(tmp_path / place, items))
    before = {path: path.read_bytes() for path in options.images.iterdir()}
    for _ in range(2):
        export_nerfstudio(saved(tmp_path, items), tmp_path, options)
        export_nerfstudio(saved(tmp_path, items), tmp_path, dataclasses.replace(ALL, images=tmp_path / "images"))
    assert {path: path.read_bytes() for path in options.images.iterdir()} == before
    assert (tmp_path / "images" / "000001.png").read_bytes() == before[options.images / "000001.png"]


@pytest.mark.parametrize(("stored", "exif"), [((224, 336), True), ((336, 224), False)])
def test_originals_that_lie_turned_are_written_as_the_model_took_them(stored, exif, tmp_path):
    """Upright, or as they lie in their file (`infer --no-exif`); which of them is told by the size."""
    item = result(0)
    frame = dataclasses.replace(item.frame, name="turned.jpg")
    photos = tmp_path / "photos"
    photos.mkdir()
    turned = Image.new("RGB", stored, (200, 10, 10))
    turned.paste((10, 10, 200), (0, 0, 336, 50))
    tags = turned.getexif()
    tags[0x0112] = 6
    turned.save(photos / "turned.jpg", exif=tags)
    options = dataclasses.replace(ALL, images=photos)
    export_nerfstudio(saved(tmp_path, [dataclasses.replace(item, frame=frame)]), tmp_path, options)
    with Image.open(tmp_path / "images" / "turned.jpg.png") as picture:
        assert picture.size == (336, 224) == item.frame.fit.original_size
        assert picture.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(picture, read_image(photos / "turned.jpg", exif))


def test_originals_lost_or_changed_since_the_run_are_given_as_the_model_saw_them(tmp_path):
    items = []
    for item in map(result, range(3)):
        frame = dataclasses.replace(item.frame, name=f"{item.frame.index + 1:06d}.png")  # another frame's number
        items.append(dataclasses.replace(item, frame=frame))
    options = dataclasses.replace(ALL, images=originals(tmp_path / "photos", items))
    Image.new("RGB", (196, 147)).save(options.images / "000002.png")
    (options.images / "000003.png").unlink()
    export_nerfstudio(saved(tmp_path, items), tmp_path, options)
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    assert [(frame["w"], frame["h"]) for frame in frames] == [(336, 224), (WIDTH, HEIGHT), (WIDTH, HEIGHT)]
    for item, frame in zip(items, frames, strict=True):
        with Image.open(tmp_path / frame["file_path"]) as picture:
            assert picture.size == (frame["w"], frame["h"])
            if item is not items[0]:
                np.testing.assert_array_equal(picture, item.frame.image)
