"""What is silently wrong elsewhere: transparency, rigs, stacks, endings, times, and grey of 16 bits."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from ivggt_jax.sources import SourceConfig, SourceError, open_source
from ivggt_jax.sources.image_file import read_mask
from ivggt_jax.sources.levels import levels_of, to_8_bits
from ivggt_jax.sources.times import seconds_of

SIDE = 28
LEFT = np.tile(np.arange(SIDE) < SIDE // 2, (SIDE, 1))
"""True in the left half."""


def frames_of(frames, **config):
    with open_source(SourceConfig(frames=str(frames), size=SIDE, **config)) as source:
        return list(source)


def shades(frames):
    """The grey level in the middle of each frame, over 8."""
    return [round(float(frame.image[14, 14].mean()) / 8) for frame in frames]


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def grey(number, size=(SIDE, SIDE)):
    return Image.new("RGB", size, (8 * number,) * 3)


def half_transparent(mode):
    """Red, its left half wholly transparent with magenta below, its right half opaque or a little transparent."""
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[...] = (200, 0, 0, 255)
    pixels[:, -4:, 3] = 1
    pixels[LEFT] = (255, 0, 255, 0)
    image = Image.fromarray(pixels)
    if mode == "LA":
        return image.convert("LA")
    if mode == "P":
        palette = Image.fromarray(np.where(LEFT, 0, 1).astype(np.uint8), "L").convert("P")
        palette.putpalette([255, 0, 255, 200, 0, 0])
        palette.info["transparency"] = 0
        return palette
    if mode in ("L", "RGB"):
        key = (255, 0, 255) if mode == "RGB" else 77
        plain = Image.fromarray(np.where(LEFT[..., None], [255, 0, 255], [200, 0, 0]).astype(np.uint8))
        image = plain if mode == "RGB" else Image.fromarray(np.where(LEFT, 77, 30).astype(np.uint8))
        image.info["transparency"] = key
        return image
    if mode == "I;16":
        image = Image.fromarray(np.where(LEFT, 7, 40_000).astype(np.uint16))
        image.info["transparency"] = 7
        return image
    return image


@pytest.mark.parametrize(
    ("mode", "ending", "options"),
    [
        ("RGBA", "png", {}),
        ("RGBA", "webp", {"lossless": True, "exact": True}),
        ("RGBA", "tif", {}),
        ("RGBA", "jp2", {}),
        ("RGBA", "qoi", {}),
        ("RGBA", "tga", {}),
        ("RGBA", "avif", {"quality": 100}),
        ("RGBA", "heic", {"quality": -1}),
        ("LA", "png", {}),
        ("P", "png", {}),
        ("P", "gif", {}),
        ("L", "png", {}),
        ("RGB", "png", {}),
        ("I;16", "png", {}),
    ],
)
def test_alpha_is_a_mask(tmp_path, mode, ending, options):
    image = half_transparent(mode)
    if "transparency" in image.info:
        options = options | {"transparency": image.info["transparency"]}
    save(tmp_path / "in" / f"a.{ending}", image, **options)
    (frame,) = frames_of(tmp_path / "in")
    np.testing.assert_array_equal(frame.mask, ~LEFT)
    assert (frame.image[:, :12] > 240).all(), "white"
    assert mode != "RGBA" or (frame.image[:, 17:22, 1:] < 60).all(), "nothing of the magenta"


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_alpha_turns_with_its_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "a.png", half_transparent("RGBA"), exif=exif)
    (frame,) = frames_of(tmp_path)
    np.testing.assert_array_equal(frame.mask, ~np.rot90(LEFT, {3: 2, 6: -1, 8: 1}[orientation]))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_mask_may_be_alpha(tmp_path, mode):
    np.testing.assert_array_equal(np.asarray(read_mask(save(tmp_path / "a.png", half_transparent(mode)))) > 0, ~LEFT)


def test_alpha_and_mask_both_count(tmp_path):
    save(tmp_path / "in" / "a.png", half_transparent("RGBA"))
    upper = np.tile((np.arange(SIDE) < 9)[:, None], (1, SIDE))
    save(tmp_path / "masks" / "a.png", Image.fromarray(upper))
    (frame,) = frames_of(tmp_path / "in", masks=tmp_path / "masks")
    np.testing.assert_array_equal(frame.mask, ~LEFT & upper)


@pytest.fixture
def rig(tmp_path):
    """cam0 and cam1 with pictures of the same names: 1, 2 and 11, 12, and masks whose height is the number."""
    for camera in (0, 1):
        for number in (1, 2):
            shade = 10 * camera + number
            save(tmp_path / "rig" / f"cam{camera}" / f"{number}.jpg", grey(shade), quality=95)
            mask = np.tile((np.arange(SIDE) < shade)[:, None], (1, SIDE))
            save(tmp_path / "masks" / f"cam{camera}" / f"{number}.png", Image.fromarray(mask))
    return tmp_path


RIG = ["cam0/1.jpg", "cam0/2.jpg", "cam1/1.jpg", "cam1/2.jpg"]


@pytest.mark.parametrize(
    "frames", ["rig/**/*.jpg", "rig/*/*.jpg", "rig/cam[01]/*.jpg", "list.txt", "elsewhere/list.txt", "absolute.txt"]
)
def test_a_rig_keeps_its_folders(rig, frames):
    (rig / "elsewhere").mkdir()
    (rig / "list.txt").write_text("".join(f"rig/{name}\n" for name in RIG))
    (rig / "elsewhere" / "list.txt").write_text("".join(f"../rig/{name}\n" for name in RIG))
    (rig / "absolute.txt").write_text("".join(f"{rig}/rig/{name}\n" for name in RIG))
    found = frames_of(rig / frames, masks=rig / "masks")
    prefix = "rig/" if frames in ("list.txt", "absolute.txt") else ""
    assert [frame.name for frame in found] == [prefix + name for name in RIG]
    assert [frame.path.resolve() for frame in found] == [(rig / "rig" / name).resolve() for name in RIG]
    assert [int(frame.mask[:, 0].sum()) for frame in found] == [1, 2, 11, 12]


def test_a_rig_on_standard_input(rig, monkeypatch):
    reading, writing = os.pipe()
    os.write(writing, "".join(f"rig/{name}\n" for name in RIG).encode())
    os.close(writing)
    monkeypatch.chdir(rig)
    with open(reading) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        found = frames_of("-", masks=rig / "masks")
    assert [frame.name for frame in found] == [f"rig/{name}" for name in RIG]
    assert [int(frame.mask[:, 0].sum()) for frame in found] == [1, 2, 11, 12]


def test_one_camera_of_a_rig_finds_its_masks(rig):
    for masks in ("masks/cam1", "masks"):
        found = frames_of(rig / "rig" / "cam1", masks=rig / masks)
        assert [frame.name for frame in found] == ["1.jpg", "2.jpg"]
        assert [int(frame.mask[:, 0].sum()) for frame in found] == [11, 12]


def test_one_mask_for_two_frames_is_an_error(rig):
    with pytest.raises(SourceError, match=r"cam1/1\.jpg: would share its mask .*masks/cam0/1\.png with .*cam0/1\.jpg"):
        frames_of(rig / "rig/**/*.jpg", masks=rig / "masks" / "cam0")


def test_two_masks_for_one_frame_are_an_error(rig):
    save(rig / "masks" / "cam0" / "1.jpg", grey(3))
    with pytest.raises(SourceError, match="are masks of the same frame"):
        frames_of(rig / "rig/**/*.jpg", masks=rig / "masks")


@pytest.mark.parametrize("name", ["{}.jpg.png", "{}.JPG.png", "{}.png", "{}.tif"])
def test_masks_as_they_are_called(tmp_path, name):
    ending = ".JPG" if "JPG" in name else ".jpg"
    for number in (1, 2):
        save(tmp_path / "in" / f"{number}{ending}", grey(number))
        mask = np.tile((np.arange(SIDE) < number)[:, None], (1, SIDE))
        save(tmp_path / "masks" / name.format(number), Image.fromarray(mask).convert("L"))
    assert [int(frame.mask[:, 0].sum()) for frame in frames_of(tmp_path / "in", masks=tmp_path / "masks")] == [1, 2]


@pytest.mark.parametrize("size", [(14, 14), (56, 56), (4, 4), (140, 140)])
def test_masks_of_another_size(tmp_path, size):
    save(tmp_path / "in" / "a.png", grey(1))
    save(tmp_path / "masks" / "a.png", Image.fromarray(np.tile(np.arange(size[0]) < size[0] / 2, (size[1], 1))))
    (frame,) = frames_of(tmp_path / "in", masks=tmp_path / "masks")
    np.testing.assert_array_equal(np.delete(frame.mask, (13, 14), 1), np.delete(LEFT, (13, 14), 1))


@pytest.mark.parametrize("size", [(20, 30), (14, 28), (100, 99 - 8)])
def test_masks_of_another_shape_are_refused(tmp_path, size):
    save(tmp_path / "in" / "a.png", grey(1))
    save(tmp_path / "masks" / "a.png", Image.new("L", size))
    with pytest.raises(SourceError, match="must have its shape"):
        frames_of(tmp_path / "in", masks=tmp_path / "masks")


@pytest.mark.parametrize(
    ("ending", "timed", "options"),
    [
        ("tif", False, {}),
        ("tif", False, {"compression": "tiff_lzw"}),
        ("tiff", False, {}),
        ("webp", True, {"lossless": True, "duration": 250}),
        ("png", True, {"duration": 250}),
        ("apng", True, {"duration": 250, "format": "PNG"}),
        ("avif", True, {"quality": 100, "duration": 250}),
        ("heic", False, {"quality": -1}),
        ("bin", False, {"format": "TIFF"}),
    ],
)
def test_a_stack_plays(tmp_path, caplog, ending, timed, options):
    path = tmp_path / f"a.{ending}"
    save(path, grey(1), save_all=True, append_images=[grey(number) for number in range(2, 6)], **options)
    found = frames_of(path)
    assert shades(found) == [1, 2, 3, 4, 5]
    assert [frame.timestamp for frame in found] == ([0, 0.25, 0.5, 0.75, 1] if timed else [None] * 5)
    assert [frame.name for frame in found[:2]] == ["000000", "000001"] and found[0].path is None
    assert shades(frames_of(path, stride=2, max_frames=2)) == [1, 3]
    with open_source(SourceConfig(frames=str(path), size=SIDE)) as source:
        assert source.length == 5 and shades(list(source.frames(start=3))) == [4, 5]
    if ending != "bin":
        caplog.clear()
        assert shades(frames_of(tmp_path)) == [1]
        assert [record.getMessage().split(": ")[0] for record in caplog.records] == [f"{path} holds 5 pictures"]


def test_a_smaller_copy_in_a_tiff_is_no_frame(tmp_path, caplog):
    small = grey(9, (7, 7))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    save(tmp_path / "a.tif", grey(3), save_all=True, append_images=[small])
    assert shades(frames_of(tmp_path / "a.tif")) == shades(frames_of(tmp_path)) == [3]
    assert not caplog.records


def test_a_damaged_page_is_named_and_can_be_skipped(tmp_path):
    path = tmp_path / "a.tif"
    noise = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)) for seed in range(4)]
    save(path, noise[0], save_all=True, append_images=noise[1:], compression="tiff_adobe_deflate")
    data = bytearray(path.read_bytes())
    place = data.index(b"x\x9c", data.index(b"x\x9c") + 5000)
    data[place + 100 : place + 3000] = bytes(2900)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.tif, picture 1: is damaged or truncated"):
        frames_of(path)
    assert [frame.index for frame in frames_of(path, on_error="skip")] == [0, 2, 3]


ENDINGS = {
    ".jfif": "JPEG", ".jpe": "JPEG", ".mpo": "MPO", ".pnm": "PPM", ".pbm": "PPM", ".dib": "DIB", ".avif": "AVIF",
    ".jp2": "JPEG2000", ".j2k": "JPEG2000", ".tga": "TGA", ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF",
    ".qoi": "QOI", ".sgi": "SGI", ".pcx": "PCX", ".apng": "PNG", ".HEIC": "HEIF",
}  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_is_found_and_read(tmp_path, ending):
    image = grey(12).convert("1" if ending == ".pbm" else "RGB")
    path = save(tmp_path / f"a{ending}", image, format=ENDINGS[ending])
    for frames in (path, tmp_path, tmp_path / "*"):
        (frame,) = frames_of(frames)
        assert ending == ".pbm" or abs(frame.image.astype(int) - 96).max() <= 3
        assert frame.path == path


@pytest.mark.parametrize("name", ["frame", "frame.dat", "frame.img", "frame.0001", "frame.mp4"])
def test_a_picture_named_alone_is_known_by_its_content(tmp_path, name):
    assert shades(frames_of(save(tmp_path / name, grey(4), format="PNG"))) == [4]


def test_what_is_left_out_of_a_folder_is_counted_and_named(tmp_path, caplog):
    for name in ("1.png", "2.heic", "3.jpg"):
        save(tmp_path / name, grey(5))
    for name in ("1.CR2", "2.dng", "2.mov", "3.exr", "3.xmp", "notes.txt", ".4.nef"):
        (tmp_path / name).write_bytes(b"something")
    for frames in (tmp_path, tmp_path / "*"):
        caplog.clear()
        with open_source(SourceConfig(frames=str(frames), size=SIDE)) as source:
            assert [frame.name for frame in source] == ["1.png", "2.heic", "3.jpg"]
            assert source.left_out == 4
        (message,) = [record.getMessage() for record in caplog.records]
        assert "4 pictures or videos in it are left out" in message and "1.CR2, 2.dng, 2.mov, …" in message


def test_a_folder_of_raw_pictures_says_what_it_holds(tmp_path):
    (tmp_path / "1.CR2").write_bytes(b"something")
    with pytest.raises(SourceError, match=r"no images in this folder that are read .*; it holds \.cr2"):
        frames_of(tmp_path)


@pytest.mark.parametrize("frames", [".", "*.png", "list.txt", "2.png"])
def test_a_dangling_link_is_an_unreadable_frame(tmp_path, frames):
    for number in (1, 3):
        save(tmp_path / f"{number}.png", grey(number))
    (tmp_path / "2.png").symlink_to("gone.png")
    (tmp_path / "list.txt").write_text("1.png\n2.png\n3.png\n")
    with pytest.raises(SourceError, match=r"2\.png: is a link to gone\.png, and there is no such file"):
        frames_of(tmp_path / frames)
    if frames != "2.png":
        with open_source(SourceConfig(frames=str(tmp_path / frames), size=SIDE, on_error="skip")) as source:
            assert shades(list(source)) == [1, 3] and source.skipped == 1


def test_heic_of_a_phone_is_whole(tmp_path):
    """Larger than a tile of 512×512, whatever the encoder makes of it; and read without its ending."""
    image = Image.fromarray(np.tile(np.arange(768, dtype=np.uint8)[:, None, None] // 3, (1, 1024, 3)))
    for name in ("a.heic", "b"):
        path = save(tmp_path / name, image, format="HEIF")
        (frame,) = frames_of(path)
        assert frame.fit.original_size == (1024, 768)


TIMES = [
    ("1305031102.175304", 1305031102.175304),
    ("1305031170.50", 1305031170.5),
    ("0.033333", 0.033333),
    ("1403636579763555584", 1403636579.763555584),
    ("1403636579763555", 1403636579.763555),
    ("1403636579763", 1403636579.763),
    ("1403636579", 1403636579.0),
    ("000001", None),
    ("0000000001", None),
    ("20240131120000", None),
    ("20240131120000123", None),
    ("2024013112", None),
    ("frame.5", None),
    ("1.2.3", None),
    ("IMG_1403636579", None),
    ("", None),
]


@pytest.mark.parametrize(("stem", "seconds"), TIMES)
def test_which_names_are_times(stem, seconds):
    assert seconds_of(stem) == seconds


@pytest.mark.parametrize(
    ("stems", "times"),
    [
        (["1305031170.10", "1305031170.50"], [1305031170.1, 1305031170.5]),
        (["1403636579763555584", "1403636579813555456"], [1403636579.763555584, 1403636579.813555456]),
        (["0.5", "0.75"], [0.5, 0.75]),
        (["1.1", "1.10"], [None, None]),
        (["000001", "000002"], [None, None]),
        (["1305031170.10", "extra"], [None, None]),
    ],
)
def test_rising_names_that_are_times_are_time_stamps(tmp_path, stems, times):
    for stem in stems:
        save(tmp_path / f"{stem}.png", grey(1))
    assert [frame.timestamp for frame in frames_of(tmp_path)] == times
    assert [frame.timestamp for frame in frames_of(tmp_path / "*.png")] == times


def test_names_out_of_order_are_no_times(tmp_path):
    for stem in ("2.5", "1.5"):
        save(tmp_path / f"{stem}.png", grey(1))
    (tmp_path / "list.txt").write_text("2.5.png\n1.5.png\n")
    assert [frame.timestamp for frame in frames_of(tmp_path / "list.txt")] == [None, None]


def ramp(low, high, dtype=np.uint16):
    return np.linspace(low, high, SIDE * SIDE).reshape(SIDE, SIDE).astype(dtype)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (21_000, 23_500, "stretched"),
        (0, 4_095, "stretched"),
        (0, 1_023, "stretched"),
        (0, 16_000, "stretched"),
        (65_000, 65_534, "stretched"),
        (30_000, 30_100, "stretched"),
        (0, 65_535, None),
        (10_000, 40_000, None),
    ],
)
@pytest.mark.parametrize("ending", ["png", "tif", "pgm", "jp2"])
def test_16_bit_grey_is_stretched_and_never_black(tmp_path, caplog, low, high, words, ending):
    for number in range(3):
        save(tmp_path / f"{number}.{ending}", Image.fromarray(ramp(low, high)))
    found = frames_of(tmp_path)
    image = found[2].image.astype(int)
    if words is None:
        np.testing.assert_allclose(image[..., 0], ramp(low, high) >> 8, atol=1)
        assert not caplog.records and found[0].levels is None
    else:
        assert 190 < image.max() - image.min() < 230
        assert [words in record.getMessage() for record in caplog.records] == [True]
        black, white = found[2].levels
        assert black < max(low, 1) and white > high and found[0].levels == found[2].levels


def test_all_frames_are_stretched_alike(tmp_path):
    """By the first eight of them: what is warmer later is brighter, and a resumed run does the same."""
    for number in range(12):
        save(tmp_path / f"{number}.png", Image.fromarray(ramp(21_000 + 50 * number, 22_000 + 50 * number)))
    found = frames_of(tmp_path)
    assert len({frame.levels for frame in found}) == 1
    assert (np.diff([float(frame.image.mean()) for frame in found]) > 3).all()
    with open_source(SourceConfig(frames=str(tmp_path), size=SIDE)) as source:
        (last,) = source.frames(start=11)
    np.testing.assert_array_equal(last.image, found[11].image)


@pytest.mark.parametrize("no_value", [0, 65_535])
def test_pixels_without_a_value_do_not_decide(no_value):
    values = ramp(21_000, 23_500)
    values[:5] = no_value
    black, white = levels_of([values])
    assert 20_000 < black < 21_500 and 23_400 < white < 24_000
    assert (to_8_bits(values, (black, white))[:5] == (255 if no_value else 0)).all()


def test_a_stack_of_thermal_pictures(tmp_path):
    pages = [Image.fromarray(ramp(21_000, 23_500)) for _ in range(3)]
    save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    for frame in frames_of(tmp_path / "a.tif"):
        assert int(frame.image.max()) - int(frame.image.min()) > 190


@pytest.mark.parametrize(("size", "lost"), [((30, 40), "26"), ((9, 16), "44"), ((28, 28), None), ((40, 30), None)])
def test_portrait_pictures_say_what_they_lose(tmp_path, caplog, size, lost):
    save(tmp_path / "a.png", grey(1, size))
    save(tmp_path / "b.png", grey(1, size))
    with open_source(SourceConfig(frames=str(tmp_path), size=280)) as source:
        list(source)
    messages = [record.getMessage() for record in caplog.records]
    if lost is None:
        assert not messages
    else:
        (message,) = messages
        assert f"{lost} % of its rows" in message and "--mode pad" in message
    caplog.clear()
    with open_source(SourceConfig(frames=str(tmp_path), size=280, mode="pad")) as source:
        list(source)
    assert not caplog.records


def test_the_still_of_an_animated_png_is_no_frame(tmp_path):
    """What programs show that know no animation; Pillow counts it as the first picture."""
    path = tmp_path / "a.png"
    save(
        path,
        grey(9),
        save_all=True,
        default_image=True,
        append_images=[grey(number) for number in (1, 2, 3)],
        duration=500,
    )
    found = frames_of(path)
    assert shades(found) == [1, 2, 3]
    assert [frame.timestamp for frame in found] == [0, 0.5, 1]
