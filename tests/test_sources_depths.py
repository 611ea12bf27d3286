"""Depth maps beside frames: by name, by time, by list; where their pixels go; and what is none."""

import io
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ivggt_jax.sources import Frame, SourceConfig, SourceError, open_source
from ivggt_jax.sources.depths import Depths

RAMP = (1000 + 10 * np.arange(80)[None] + 5 * np.arange(60)[:, None]).astype(np.uint16)


def pictures(folder: Path, names: list[str], size: tuple[int, int] = (80, 60)) -> Path:
    folder.mkdir()
    for name in names:
        Image.new("RGB", size, (9, 99, 199)).save(folder / name)
    return folder


def depths(folder: Path, names: list[str], values: np.ndarray = RAMP) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        if name.endswith(".npz"):
            np.savez_compressed(folder / name, depth=values)
        elif name.endswith(".npy"):
            np.save(folder / name, values)
        else:
            Image.fromarray(values).save(folder / name)
    return folder


def frames_of(folder: Path | str, depth: Path, **config) -> list[Frame]:
    with open_source(SourceConfig(frames=str(folder), size=56, depth=depth, **config)) as source:
        return list(source)


def test_by_name_and_in_metres(tmp_path: Path) -> None:
    """56×42 of 80×60: the nearest pixel, of 16 bits in millimetres and, in floats, metres."""
    folder = pictures(tmp_path / "rgb", ["0.png", "1.png", "2.jpg", "3.png"])
    where = depths(tmp_path / "d", ["0.png", "1.npz"])
    depths(where, ["2.npy"], (RAMP / 1000).astype(np.float32))
    found = frames_of(folder, where)
    column, row = np.floor((np.arange(56) + 0.5) / 0.7).astype(int), np.floor((np.arange(42) + 0.5) / 0.7).astype(int)
    for frame in found[:3]:
        np.testing.assert_allclose(frame.depth, RAMP[np.ix_(row, column)] / 1000, rtol=1e-6)
    assert found[3].depth is not None and np.isnan(found[3].depth).all(), "a frame may have none"
    np.testing.assert_allclose(frames_of(folder, where, depth_scale=5000)[0].depth, found[0].depth / 5, rtol=1e-6)


def test_a_pgm_of_fewer_bits_has_its_own_units(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "rgb", ["0.png"])
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "0.pgm").write_bytes(b"P5 80 60 4095\n" + RAMP.astype(">u2").tobytes())
    np.testing.assert_allclose(Depths(tmp_path / "d", 1000).read(tmp_path / "d" / "0.pgm"), RAMP / 1000, rtol=1e-6)
    (frame,) = frames_of(folder, tmp_path / "d")
    assert frame.depth.max() < 2.1


@pytest.mark.parametrize("exif", [True, False])
def test_a_map_is_turned_as_its_picture_is(exif: bool, tmp_path: Path) -> None:
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    for folder, image in (("rgb", Image.new("RGB", (80, 60))), ("d", Image.fromarray(RAMP))):
        (tmp_path / folder).mkdir()
        image.save(tmp_path / folder / "0.tif", exif=upside_down)
    (frame,) = frames_of(tmp_path / "rgb", tmp_path / "d", exif=exif)
    assert (frame.depth[0, 0] > frame.depth[-1, -1]) == exif


def test_zero_is_nothing_and_a_map_may_be_smaller(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "rgb", ["0.png"], (160, 240))
    values = np.full((60, 40), 1500, np.uint16)
    values[:, :20] = 0
    (frame,) = frames_of(folder, depths(tmp_path / "d", ["0.png"], values))
    assert frame.image.shape == (56, 56, 3) and np.isnan(frame.depth[:, :28]).all()
    np.testing.assert_allclose(frame.depth[:, 28:], 1.5)


def test_by_time_as_tum_has_it(tmp_path: Path) -> None:
    """The nearest within 0.02 s; files named by times in a folder do as well as its list."""
    times = [1305031102.175304, 1305031102.211214, 1305031102.243211, 1305031102.4]
    folder = pictures(tmp_path / "rgb", [f"{time:.6f}.png" for time in times])
    later = [f"{time + shift:.6f}.png" for time, shift in zip(times, (-0.015, 0.012, 0.002, 0.05), strict=True)]
    where = tmp_path / "depth"
    for number, name in enumerate(later):
        depths(where, [name], np.full((60, 80), 5000 * (number + 1), np.uint16))
    (tmp_path / "depth.txt").write_text("# depth maps\n" + "".join(f"{name[:-4]} depth/{name}\n" for name in later))
    for place in (where, tmp_path / "depth.txt"):
        found = [frame.depth for frame in frames_of(folder, place, depth_scale=5000)]
        assert [float(depth[20, 20]) for depth in found[:3]] == [1, 2, 3]
        assert np.isnan(found[3]).all()


def test_of_a_distorted_camera_it_goes_through_the_same_lens(tmp_path: Path) -> None:
    """A map that is near right of a straight edge of the scene: it is straight in the frame, where the camera puts it."""
    camera = "fisheye:40,40,39.5,29.5,0.05,0,0,0"
    folder = pictures(tmp_path / "rgb", ["0.png"])
    from ivggt_jax.cameras.files import read_camera

    lens = read_camera(camera).of_size(80, 60)
    rays = lens.unproject(np.stack(np.meshgrid(np.arange(80), np.arange(60)), axis=-1))
    values = np.where(rays[..., 0] > 0.3 * rays[..., 2], 1000, 2000).astype(np.uint16)
    (frame,) = frames_of(folder, depths(tmp_path / "d", ["0.png"], values), camera=camera)
    assert frame.camera is not None and frame.depth is not None
    edge = 28 + 0.3 * frame.camera.focal[0]
    wanted = np.broadcast_to(np.where(np.arange(56) > edge, 1.0, 2.0), (42, 56))
    assert (frame.depth == wanted).mean() > 0.98


@pytest.mark.parametrize(
    ("names", "values", "config", "words"),
    [
        (["7.png"], RAMP, {}, "no depth map belongs to a frame: none is called as one, like 0.png"),
        (["0.png"], RAMP[:, :50], {}, r"0.png: .*the depth map has 50×60 pixels, its image 80×60"),
        (["0.png"], RAMP.astype(np.uint8), {}, "is no depth map: 16 bits of grey are needed"),
        (["0.npy"], np.ones((60, 80, 3)), {}, r"is no depth map, but float64 \[60, 80, 3\]"),
        (["0.png"], RAMP, {"depth_scale": 0.0}, "depth_scale must be positive"),
        (["0.png"], RAMP, {"camera": "equirectangular"}, "not for panoramas"),
    ],
)
def test_what_is_no_depth(names: list[str], values: np.ndarray, config: dict, words: str, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "rgb", ["0.png", "1.png"])
    with pytest.raises(SourceError, match=words):
        frames_of(folder, depths(tmp_path / "d", names, values), **config)


def write_exr(path: Path, values: np.ndarray, number: str) -> None:
    """Values [h,w] as the channel Y, or [h,w,3] as R, G and B, of `float` or `half` numbers."""
    with av.open(str(path), "w", format="image2") as file:
        stream = file.add_stream("exr", rate=1, options={"format": number})
        stream.height, stream.width = values.shape[:2]
        stream.pix_fmt = "grayf32le" if values.ndim == 2 else "gbrpf32le"
        frame = av.VideoFrame.from_ndarray(values, format=stream.pix_fmt)
        file.mux([*stream.encode(frame), *stream.encode()])


@pytest.mark.parametrize("number", ["float", "half"])
@pytest.mark.parametrize("colours", [False, True])
def test_exr(number: str, colours: bool, tmp_path: Path) -> None:
    """To the digit, beyond 1 too; what was not measured is 0, infinite or NaN."""
    wanted = (RAMP / 256).astype(np.float16).astype(np.float32)
    wanted[:3, :7], wanted[5, 5], wanted[6, 6] = 0, np.inf, np.nan
    write_exr(tmp_path / "0.exr", np.stack([wanted] * 3, axis=-1) if colours else wanted, number)
    found = Depths(tmp_path, 1000).read(tmp_path / "0.exr")
    np.testing.assert_array_equal(found, np.where(np.isfinite(wanted) & (wanted > 0), wanted, np.nan))


def test_a_coloured_exr_is_no_depth_map(tmp_path: Path) -> None:
    write_exr(tmp_path / "0.exr", np.random.default_rng(0).random((60, 80, 3), np.float32), "float")
    with pytest.raises(SourceError, match=r"0.exr: is no depth map that can be read \(its colours differ\)"):
        Depths(tmp_path, 1000).read(tmp_path / "0.exr")


def test_other_times_missing_folders_exr_and_damage(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "rgb", ["1305031102.175304.png", "1305031102.275304.png"])
    where = depths(tmp_path / "late", ["1305039999.0.png", "1305039999.1.png"])
    with pytest.raises(SourceError, match=r"frames' times: from 1305031102.175 to .*, depth's: from 1305039999.000"):
        frames_of(folder, where)
    with pytest.raises(SourceError, match="nowhere: there is no such folder of depth maps, nor a list"):
        frames_of(folder, tmp_path / "nowhere")
    with pytest.raises(SourceError, match="is neither a folder of depth maps nor a list"):
        frames_of(folder, folder / "1305031102.175304.png")
    (tmp_path / "exr").mkdir()
    (tmp_path / "exr" / "1305031102.175304.exr").write_bytes(b"v/1\1")
    with pytest.raises(SourceError, match="is no depth map that can be read .*needs floats in the channel Y"):
        frames_of(folder, tmp_path / "exr")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1305031102.175304.npz").write_bytes(b"PK\3\4")
    with pytest.raises(SourceError, match="is no depth map"):
        frames_of(folder, tmp_path / "bad")
    whole = depths(tmp_path / "cut", ["1305031102.175304.png"]) / "1305031102.175304.png"
    whole.write_bytes(whole.read_bytes()[:200])
    with pytest.raises(SourceError, match="175304.png: is damaged or truncated"):
        frames_of(folder, tmp_path / "cut")
    (tmp_path / "depth.txt").write_text("1305031102.175304 gone/1.png\n")
    with pytest.raises(SourceError, match="gone/1.png: there is no such file"):
        frames_of(folder, tmp_path / "depth.txt")
    assert len(frames_of(folder, tmp_path / "bad", on_error="skip")) == 1


def test_times_with_more_digits_come_later(tmp_path: Path) -> None:
    """As text, 10.00 would come before 9.95, and times that fall are no times."""
    folder = pictures(tmp_path / "rgb", ["9.90.png", "9.96.png", "10.01.png"])
    where = depths(tmp_path / "d", ["9.89.png", "9.95.png", "10.00.png"])
    assert all(np.isfinite(frame.depth).any() for frame in frames_of(folder, where))


def test_two_frames_do_not_share_a_map_by_its_name(tmp_path: Path) -> None:
    """Depth of another camera of the rig looks plausible, so nothing later would tell."""
    (tmp_path / "rig").mkdir()
    for camera in ("cam0", "cam1"):
        pictures(tmp_path / "rig" / camera, ["0.jpg"])
    where = depths(tmp_path / "depth", ["0.png"])
    with pytest.raises(SourceError, match=r"cam1/0.jpg would share its depth map .*0.png with .*cam0/0.jpg"):
        frames_of(f"{tmp_path}/rig/*/*.jpg", where)
    for camera in ("cam0", "cam1"):
        depths(where / camera, ["0.png"])
    assert len(frames_of(f"{tmp_path}/rig/*/*.jpg", where)) == 2


def test_two_maps_of_a_frame_are_a_mistake(tmp_path: Path) -> None:
    folder = depths(tmp_path / "depth", ["0.png", "0.npy"])
    with pytest.raises(SourceError, match="0.npy and .*0.png are depth maps of the same frame"):
        Depths(folder, 1000)


def archive(shape: tuple[int, ...], content: bytes = bytes(range(256)) * 20) -> bytes:
    """An .npy file that claims a shape of float32, with the content that follows its head."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def zipped(content: bytes, *replaced: tuple[bytes, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", content)
    data = file.getvalue()
    for old, new in replaced:
        assert old in data
        data = data.replace(old, new)
    return data


DAMAGED = {
    "an exabyte.npy": archive((10**9, 10**9)),
    "no integer holds it.npy": archive((10**30, 10**30)),
    "terabytes.npz": zipped(archive((10**6, 10**6))),
    "deflated wrongly.npz": (whole := zipped(archive((64, 20))))[:60] + b"\xff" * 30 + whole[90:],
    "unknown compression.npz": zipped(archive((64, 20)), (b"\x08\x00", b"\x63\x00")),
    "encrypted.npz": zipped(
        archive((64, 20)), (b"\x04\x14\0\0\0", b"\x04\x14\0\1\0"), (b"\x14\3\x14\0\0", b"\x14\3\x14\0\1")
    ),
    "complex.npy": (complex_ := io.BytesIO(), np.save(complex_, np.ones((6, 8), complex)))[0].getvalue(),
    "durations.npy": (durations := io.BytesIO(), np.save(durations, np.ones((6, 8), "m8[s]")))[0].getvalue(),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_map_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.raises(SourceError, match="is no depth map") as error:
        Depths(tmp_path, 1000).read(path)
    assert "\n" not in str(error.value)


def test_what_float32_does_not_hold_was_not_measured(tmp_path: Path) -> None:
    folder = depths(tmp_path / "depth", ["0.npy"], np.array([[1e300, 2.0], [-1.0, np.inf]]))
    np.testing.assert_array_equal(Depths(folder, 1000).read(folder / "0.npy"), [[np.nan, 2], [np.nan, np.nan]])
