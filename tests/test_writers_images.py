"""The pictures that COLMAP and nerfstudio models refer to: originals where they are at hand, and what the model saw."""

import dataclasses
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from writer_scene import ALL, FITS, HEIGHT, WIDTH, originals, result, saved

from ivggt_jax.sources import SourceConfig
from ivggt_jax.sources.image_file import read_image
from ivggt_jax.writers import Result
from ivggt_jax.writers.colmap import export_colmap
from ivggt_jax.writers.images import Pictures
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


@pytest.mark.parametrize("ending", [".jpg", ".tif"])
@pytest.mark.parametrize(("stored", "exif"), [((224, 336), True), ((336, 224), False)])
def test_originals_that_lie_turned_are_written_as_the_model_took_them(stored, exif, ending, tmp_path):
    """Upright, or as they lie in their file (`infer --no-exif`); which of them is told by the size."""
    item = result(0)
    frame = dataclasses.replace(item.frame, name=f"turned{ending}")
    photos = tmp_path / "photos"
    photos.mkdir()
    turned = Image.new("RGB", stored, (200, 10, 10))
    turned.paste((10, 10, 200), (0, 0, 336, 50))
    tags = turned.getexif()
    tags[0x0112] = 6
    turned.save(photos / f"turned{ending}", exif=tags)
    options = dataclasses.replace(ALL, images=photos)
    export_nerfstudio(saved(tmp_path, [dataclasses.replace(item, frame=frame)]), tmp_path, options)
    with Image.open(tmp_path / "images" / f"turned{ending}.png") as picture:
        assert picture.size == (336, 224) == item.frame.fit.original_size
        assert picture.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(picture, read_image(photos / f"turned{ending}", exif))


@pytest.mark.parametrize(("orientation", "exif"), [(3, True), (3, False), (2, False)])
def test_originals_whose_size_does_not_tell_are_written_as_the_run_took_them(orientation, exif, tmp_path):
    """Upside down or mirrored in their file: turned only if the run turned them, else they would not fit their cameras."""
    photos = tmp_path / "photos"
    photos.mkdir()
    stored = Image.new("RGB", (336, 224), (200, 10, 10))
    stored.paste((10, 10, 200), (0, 0, 336, 50))
    tags = stored.getexif()
    tags[0x0112] = orientation
    stored.save(photos / "a.jpg", exif=tags)
    item = result(0)
    frame = dataclasses.replace(item.frame, name="a.jpg", path=photos / "a.jpg")
    pictures = Pictures(tmp_path / "images", None, SourceConfig(frames=str(photos), exif=exif))
    view = pictures.place(dataclasses.replace(item, frame=frame))
    with Image.open(tmp_path / "images" / view.name) as picture:
        np.testing.assert_array_equal(picture, read_image(photos / "a.jpg", exif))


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


def test_originals_that_are_gone_are_named(tmp_path, caplog):
    there = picture(tmp_path / "photos" / "a.png")
    place([named(0, "a.png", there), named(1, "b.png", tmp_path / "moved" / "b.png")], tmp_path)
    assert f"1 of 2 pictures are not where they were read, such as {tmp_path}/moved/b.png" in caplog.text
    assert "--images names their folder" in caplog.text


def named(index: int, name: str, path: Path | None = None) -> Result:
    """A frame of the scene, called so and read from there."""
    item = result(index)
    return dataclasses.replace(item, frame=dataclasses.replace(item.frame, name=name, path=path))


def picture(path: Path, mode: str = "RGB", value: object = None, **options: object) -> Path:
    """An original of the size that the model's frames are made from, of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, FITS["resized"].original_size, value).save(path, **options)
    return path


def place(items: list[Result], out: Path, originals: Path | None = None) -> list[str]:
    pictures = Pictures(out / "images", originals)
    names = [pictures.place(item).name for item in items]
    pictures.check()
    return names


def colour(path: Path) -> tuple[int, ...]:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return image.getpixel((0, 0))


def test_a_rigs_pictures_are_each_cameras_own(tmp_path: Path) -> None:
    """cam0/0.png and cam1/0.png, in COLMAP's model, nerfstudio's and the folder."""
    pycolmap = pytest.importorskip("pycolmap")
    items = []
    for index in range(4):
        name = f"cam{index % 2}/{index // 2}.png"
        items.append(named(index, name, picture(tmp_path / "rig" / name, value=(10 * index, 0, 0))))
    run = saved(tmp_path, items)
    for export in (export_colmap, export_nerfstudio):
        export(run, tmp_path, ALL)
    names = [item.frame.name for item in items]
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    assert [model.images[number].name for number in (1, 2, 3, 4)] == names
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    assert [frame["file_path"] for frame in frames] == [f"images/{name}" for name in names]
    for index, name in enumerate(names):
        assert (tmp_path / "images" / name).samefile(tmp_path / "rig" / name)
        assert colour(tmp_path / "images" / name) == (10 * index, 0, 0)


@pytest.mark.parametrize("folder", ["rig", "copy"])
def test_a_rig_is_found_where_it_is_now(folder: str, tmp_path: Path) -> None:
    names = ["cam0/0.png", "cam1/0.png"]
    items = [named(index, name, picture(tmp_path / "rig" / name)) for index, name in enumerate(names)]
    for index, name in enumerate(names):
        picture(tmp_path / folder / name, value=(index, 0, 0))
    assert place(items, tmp_path, tmp_path / folder) == names
    assert [colour(tmp_path / "images" / name)[0] for name in names] == [0, 1]


def test_one_cameras_folder_for_a_rig_is_an_error(tmp_path: Path) -> None:
    items = [named(0, "cam0/0.png"), named(1, "cam1/0.png")]
    picture(tmp_path / "rig" / "cam0" / "0.png")
    with pytest.raises(
        ValueError, match=r"frames cam0/0.png and cam1/0.png would both take .*0.png: give --images the"
    ):
        place(items, tmp_path, tmp_path / "rig" / "cam0")


@pytest.mark.parametrize("names", [("a.png", "a.png"), ("a.png", "../a.png"), ("a.png", "/a.png"), ("a", "a.png")])
def test_two_pictures_of_one_name_are_an_error(names: tuple[str, str], tmp_path: Path) -> None:
    """The last pair: a grey one becomes a.png, which the other is called already."""
    first = picture(tmp_path / "one" / "a.png", "L" if names[0] == "a" else "RGB")
    items = [named(0, names[0], first), named(1, names[1], picture(tmp_path / "two" / "a.png"))]
    with pytest.raises(ValueError, match=r"two pictures would be called a.png, the second is of frame"):
        place(items, tmp_path)


def test_a_picture_that_comes_twice_has_two_names(tmp_path: Path) -> None:
    """COLMAP takes no name twice."""
    path = picture(tmp_path / "photos" / "a.png")
    names = place([named(0, "a.png", path), named(3, "a.png", path), named(4, "a.png", path)], tmp_path)
    assert names == ["a.png", "000003.a.png", "000004.a.png"]
    assert all((tmp_path / "images" / name).samefile(path) for name in names)


@pytest.mark.parametrize(
    ("name", "mode", "value", "expected"),
    [
        ("grey.jpg", "L", 100, (100, 100, 100)),
        ("grey.png", "L", 100, (100, 100, 100)),
        ("grey.tif", "L", 100, (100, 100, 100)),
        ("black_and_white.png", "1", 1, (255, 255, 255)),
        ("palette.png", "P", 0, (0, 0, 0)),
        ("palette.gif", "P", 0, (0, 0, 0)),
        ("print.jpg", "CMYK", (0, 255, 255, 0), (254, 0, 0)),
        ("deep.png", "I;16", 100 << 8, (100, 100, 100)),
        ("clear.png", "RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("clear.webp", "RGBA", (0, 0, 0, 128), None),
        ("grey_and_clear.png", "LA", (100, 255), (100, 100, 100)),
    ],
)
def test_what_others_read_otherwise_is_written_as_rgb(
    name: str, mode: str, value: object, expected: tuple[int, ...] | None, tmp_path: Path
) -> None:
    path = picture(tmp_path / "photos" / name, mode, value)
    assert place([named(0, name, path)], tmp_path) == [f"{name}.png"]
    with Image.open(tmp_path / "images" / f"{name}.png") as written:
        assert (written.mode, written.size) == ("RGB", FITS["resized"].original_size)
        np.testing.assert_array_equal(written, read_image(path))
        assert expected is None or np.abs(np.subtract(written.getpixel((0, 0)), expected)).max() <= 1


def test_sixteen_bits_of_colour_are_written_as_eight(tmp_path: Path) -> None:
    """Pillow reads such a PNG as RGB; others get values up to 65,535."""
    width, height = FITS["resized"].original_size
    rows = b"".join(b"\0" + struct.pack(">3H", 100 << 8, 2 << 8, 3 << 8) * width for _ in range(height))
    chunks = (
        (b"IHDR", struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    )
    assert place([named(0, "deep.png", path)], tmp_path) == ["deep.png.png"]
    assert colour(tmp_path / "images" / "deep.png.png") == (100, 2, 3)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "a.webp", "a.ppm"])
def test_what_everybody_reads_alike_is_the_same_file(name: str, tmp_path: Path) -> None:
    path = picture(tmp_path / "photos" / name, value=(10, 20, 30))
    assert place([named(0, name, path)], tmp_path) == [name]
    assert (tmp_path / "images" / name).samefile(path)


def test_a_tiff_with_a_smaller_copy_is_the_same_file(tmp_path: Path) -> None:
    """Such copies, for a quick look, are no pictures of their own."""
    small = Image.new("RGB", (7, 7))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    path = picture(tmp_path / "photos" / "a.tif", value=(10, 20, 30), save_all=True, append_images=[small])
    assert place([named(0, "a.tif", path)], tmp_path) == ["a.tif"]
    assert (tmp_path / "images" / "a.tif").samefile(path)


def test_an_export_can_be_moved(tmp_path: Path) -> None:
    """Also to where the originals are not, as into a container."""
    path = picture(tmp_path / "photos" / "a.jpg", value=(200, 60, 40))
    (tmp_path / "photos" / "link.jpg").symlink_to(path)
    items = [named(0, "a.jpg", path), named(1, "link.jpg", tmp_path / "photos" / "link.jpg")]
    place(items, tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "copied", symlinks=True)
    (tmp_path / "here").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "photos")
    for place_ in ("copied", "moved"):
        for name in ("a.jpg", "link.jpg"):
            assert not (tmp_path / place_ / "images" / name).is_symlink()
            assert np.abs(np.subtract(colour(tmp_path / place_ / "images" / name), (200, 60, 40))).max() < 3


def test_what_cannot_be_linked_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr("os.link", refuse)
    path = picture(tmp_path / "photos" / "a.jpg")
    for _ in range(2):
        assert place([named(0, "a.jpg", path)], tmp_path) == ["a.jpg"]
    assert (tmp_path / "images" / "a.jpg").read_bytes() == path.read_bytes()
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["a.jpg"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../a.png", "a.png"),
        ("/etc/a.png", "etc/a.png"),
        ("./b/../a.png", "b/a.png"),
        ("caf\udce9.png", "caf%E9.png"),
        ("é/ü ß.png", "é/ü ß.png"),
        ("", "picture"),
        ("..", "picture"),
    ],
)
def test_names_stay_below_the_folder(name: str, expected: str, tmp_path: Path) -> None:
    path = picture(tmp_path / "photos" / "a.png")
    assert place([named(0, name, path)], tmp_path / "out") == [expected]
    assert (tmp_path / "out" / "images" / expected).samefile(path)


@pytest.mark.parametrize(
    "kind", ["gone", "damaged", "of several pictures", "a folder", "no picture", "of another size"]
)
def test_an_original_that_is_not_what_was_seen_is_given_as_the_model_saw_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "photos" / "a.tif"
    match kind:
        case "damaged":
            data = picture(path, "L").read_bytes()
            path.write_bytes(data[: len(data) // 2])
        case "of several pictures":
            picture(path, save_all=True, append_images=[Image.new("RGB", FITS["resized"].original_size)])
        case "a folder":
            path.mkdir(parents=True)
        case "no picture":
            path.parent.mkdir()
            path.write_text("a picture")
        case "of another size":
            path.parent.mkdir()
            Image.new("RGB", (30, 20)).save(path)
    item = named(7, "a.tif", path)
    assert place([item], tmp_path) == ["000007.a.tif.png"]
    with Image.open(tmp_path / "images" / "000007.a.tif.png") as seen:
        np.testing.assert_array_equal(seen, item.frame.image)


def test_a_folder_without_the_pictures_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(tmp_path / "others" / "b.png")
    items = [named(0, "a.png"), named(1, "b.png")]
    with pytest.raises(ValueError, match=r"others has none of the pictures.* like a.png, with any ending"):
        place(items[:1], tmp_path / "first", tmp_path / "others")
    place(items, tmp_path / "second", tmp_path / "others")
    assert "1 of 2 pictures are not in" in caplog.text


def test_files_that_are_nobodys_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place([named(0, "000000")], tmp_path)
    assert not caplog.text
    picture(tmp_path / "images" / "left" / "from_before.png")
    place([named(0, "000000")], tmp_path)
    assert (
        "holds 1 other files, such as left/from_before.png: programs that take pictures by their order" in caplog.text
    )


@pytest.mark.parametrize("name", ["a.heic", "a.avif", "a.jp2", "a.qoi", "a.tga", "a.jfif", "a.mpo"])
def test_kinds_that_few_programs_know_become_png(name, tmp_path):
    item = result(0)
    original = tmp_path / name
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 336, 3), np.uint8))
    picture.save(original, **({"format": "JPEG"} if name in ("a.jfif", "a.mpo") else {}))
    frame = dataclasses.replace(item.frame, name=f"cam0/{name}", path=original)
    export_colmap(saved(tmp_path, [dataclasses.replace(item, frame=frame)]), tmp_path, ALL)
    (written,) = (path for path in (tmp_path / "images").rglob("*") if path.is_file())
    assert written.relative_to(tmp_path / "images").as_posix() == f"cam0/{name}" + ".png" * (
        name[2] not in "jm" or name == "a.jp2"
    )
    with Image.open(written) as found:
        assert found.format in ("PNG", "JPEG")
        np.testing.assert_array_equal(found.convert("RGB"), read_image(original))


def test_thermal_pictures_are_written_as_they_were_stretched(tmp_path):
    item = result(0)
    original = tmp_path / "a.png"
    values = np.linspace(21_000, 23_500, 224 * 336).reshape(224, 336).astype(np.uint16)
    Image.fromarray(values).save(original)
    frame = dataclasses.replace(item.frame, name="a.png", path=original, levels=(20_750.0, 23_750.0))
    run = saved(tmp_path, [dataclasses.replace(item, frame=frame)])
    assert run[0].frame.levels == (20_750.0, 23_750.0)
    export_nerfstudio(run, tmp_path, ALL)
    with Image.open(tmp_path / "images" / "a.png.png") as found:
        assert found.mode == "RGB" and found.getextrema()[0] == (21, 234)
