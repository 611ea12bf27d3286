"""Videos as people have them: covers, several streams, alpha, pixels that are not square, high dynamic range, threads."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from sample_video import number_of, picture, write_video

from ivggt_jax.sources import SourceConfig, SourceError, hdr, open_source
from ivggt_jax.sources.video import VideoReader

X265 = "log-level=none:bframes=0:frame-threads=1"
"""With threads and B-frames, one short video of ten came without times on a busy machine, and was not written."""


def frames_of(path, size=56, **config):
    with open_source(SourceConfig(frames=str(path), size=size, **config)) as source:
        return list(source)


def add(container, codec="libx264", size=(64, 48), rate=10, **options):
    stream = container.add_stream(codec, rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return stream


def write(container, stream, pixels, number):
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    frame.pts, frame.time_base = number, Fraction(1, 10)
    container.mux(stream.encode(frame))


def with_cover(path, video_too=True):
    """Five frames, or a second of silence, with a cover, a large white JPEG: in Matroska attached, else a stream, the first."""
    jpeg = io.BytesIO()
    Image.new("RGB", (600, 600), "white").save(jpeg, "JPEG")
    with av.open(str(path), "w") as container:
        if path.suffix == ".mkv":
            container.add_attachment("cover.jpg", "image/jpeg", jpeg.getvalue())
        else:
            cover = add(container, "mjpeg", (600, 600), 1)
            cover.disposition = av.stream.Disposition.attached_pic
        stream = add(container) if video_too else container.add_stream("aac", rate=8000, layout="mono")
        container.start_encoding()
        if path.suffix != ".mkv":
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1, 10)
            packet.is_keyframe = True
            container.mux(packet)
        if video_too:
            for number in range(5):
                write(container, stream, picture(number), number)
        else:
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_cover_is_no_video(tmp_path, name):
    path = with_cover(tmp_path / name)
    with av.open(str(path)) as container:
        assert any(stream.disposition & av.stream.Disposition.attached_pic for stream in container.streams.video)
    assert [number_of(frame.image) for frame in frames_of(path)] == [0, 1, 2, 3, 4]
    with pytest.raises(SourceError, match="holds no video"):
        frames_of(with_cover(path, video_too=False))


@pytest.mark.parametrize("large_first", [True, False])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_of_two_videos_the_larger_is_taken_and_it_is_said(tmp_path, caplog, large_first, name):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        sizes = [(128, 96), (64, 48)] if large_first else [(64, 48), (128, 96)]
        streams = [add(container, size=size) for size in sizes]
        for number in range(4):
            for stream, (width, height) in zip(streams, sizes, strict=True):
                write(container, stream, np.full((height, width, 3), width, np.uint8), number)
        for stream in streams:
            container.mux(stream.encode())
    with av.open(str(path)) as container:
        defaults = [bool(stream.disposition & av.stream.Disposition.default) for stream in container.streams.video]
    frames = frames_of(path)
    expected = (64, 48) if defaults == [True, False] and not large_first else (128, 96)
    assert {frame.fit.original_size for frame in frames} == {expected} and len(frames) == 4
    assert [record.getMessage().split(" holds ")[1][:8] for record in caplog.records] == ["2 videos"]


ALPHA = {
    "a.mov": ("prores_ks", "yuva444p10le", {"profile": "4444"}),
    "qtrle.mov": ("qtrle", "argb", {}),
    "png.mov": ("png", "rgba", {}),
    "a.webm": ("libvpx-vp9", "yuva420p", {"auto-alt-ref": "0"}),
    "vp8.webm": ("libvpx", "yuva420p", {"auto-alt-ref": "0"}),
    "ffv1.mkv": ("ffv1", "bgra", {}),
    "utvideo.avi": ("utvideo", "gbrap", {}),
}


@pytest.mark.parametrize("name", ALPHA)
def test_alpha_of_a_video_is_a_mask(tmp_path, name):
    codec, pixel_format, options = ALPHA[name]
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[...] = (20, 120, 40, 255)
    pixels[:, :32] = (255, 0, 255, 0)
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pixel_format)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = frames_of(tmp_path / name)
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 0.1, 0.2])
    for frame in frames:
        assert frame.mask[:, 30:].all() and not frame.mask[:, :26].any()
        assert (frame.image[:, 2:24] > 235).all() and abs(frame.image[4:-4, 36:] - np.array([20.0, 120, 40])).max() < 15


def test_a_transparent_gif(tmp_path):
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[:, 14:] = (0, 200, 0, 255)
    pictures = [Image.fromarray(pixels), Image.fromarray(np.roll(pixels, 1, 0))]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:] * 2, disposal=2)
    for frame in frames_of(tmp_path / "a.gif", size=28):
        assert not frame.mask[:, :14].any() and frame.mask[:, 14:].all()


@pytest.mark.parametrize(
    ("stored", "aspect", "shown"),
    [
        ((64, 64), Fraction(4, 3), (85, 64)),
        ((64, 48), Fraction(3, 4), (64, 64)),
        ((64, 64), Fraction(16, 11), (93, 64)),
        ((64, 48), Fraction(2, 1), (128, 48)),
        ((64, 48), Fraction(1, 1), (64, 48)),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_pixels_become_square(tmp_path, stored, aspect, shown, name):
    with av.open(str(tmp_path / name), "w") as container:
        stream = add(container, size=stored)
        stream.codec_context.sample_aspect_ratio = aspect
        write(container, stream, np.full((*stored[::-1], 3), 99, np.uint8), 0)
        container.mux(stream.encode())
    (frame,) = frames_of(tmp_path / name)
    assert frame.fit.original_size == shown


def signal_of(light, transfer):
    """PQ or HLG of light in cd/m² [...,3], as BT.2100 says it: of grey, which no primaries change."""
    if transfer == hdr.PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = (light / 10_000) ** m1
        return ((c1 + c2 * power) / (1 + c3 * power)) ** m2
    scene = (light / 1000) ** (1 / 1.2)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


def deep(signal):
    return np.rint(65535 * signal).astype(np.uint16)


@pytest.mark.parametrize("transfer", [hdr.PQ, hdr.HLG])
def test_what_is_no_brighter_than_white_comes_out_as_ordinary_video(transfer):
    """White at 203 cd/m² (BT.2408): grey of BT.709 up to 0.9 of it, rounded to eight bits."""
    grey = np.linspace(0.05, 0.94, 40)[:, None] * np.ones(3)
    light = 203 * np.where(grey < 0.081, grey / 4.5, ((grey + 0.099) / 1.099) ** (1 / 0.45))
    for wide in (True, False):
        np.testing.assert_allclose(hdr.ordinary(deep(signal_of(light, transfer)), transfer, wide), 255 * grey, atol=0.6)


@pytest.mark.parametrize("transfer", [hdr.PQ, hdr.HLG])
def test_highlights_are_rolled_off_in_order(transfer):
    """Up to 1,000 cd/m² and, in PQ, beyond; grey stays grey."""
    light = np.geomspace(180, 1000, 20)[:, None] * np.ones(3)
    found = hdr.ordinary(deep(signal_of(light, transfer)), transfer, True).astype(int)
    assert (np.diff(found, axis=0) >= 0).all() and (found.max(1) - found.min(1) <= 1).all()
    assert found[0, 0] == 240 and found[-1, 0] == 255
    if transfer == hdr.PQ:
        assert (hdr.ordinary(deep(signal_of(np.full((1, 3), 5000.0), transfer)), transfer, True) >= 254).all()


@pytest.mark.parametrize("transfer", [hdr.PQ, hdr.HLG])
def test_bands_of_rows_make_the_whole_picture(transfer):
    values = np.random.default_rng(0).integers(0, 65536, (2 * hdr.ROWS + 5, 8, 3), dtype=np.uint16)
    np.testing.assert_array_equal(hdr.tone_mapped(values, transfer, 9), hdr.ordinary(values, transfer, True))


@pytest.mark.parametrize("transfer", [hdr.PQ, hdr.HLG])
@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
def test_high_dynamic_range_video(tmp_path, caplog, transfer, codec):
    """Grey steps of ordinary video come back within 4 of 255: ten bits, compressed, then read through eight bits of PQ or HLG."""
    grey = np.repeat(np.array([40, 80, 120, 160, 200, 230]), 32) / 255
    light = 203 * np.where(grey < 0.081, grey / 4.5, ((grey + 0.099) / 1.099) ** (1 / 0.45))
    signal = np.tile(signal_of(light, transfer)[None, :, None], (96, 1, 3))
    path = tmp_path / "a.mp4"
    options = {"x265-params": X265, "crf": "8"} if codec == "libx265" else {"crf": "10", "preset": "10"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 192, 96, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, transfer, 9, 1
        for number in range(2):
            # Grey has no chroma, so luma alone carries it, in 64 … 940.
            luma = np.rint(64 + 876 * signal[..., 0]).astype("<u2")
            frame = av.VideoFrame(192, 96, "yuv420p10le")
            for plane, values in zip(frame.planes, (luma, *[np.full((48, 96), 512, "<u2")] * 2), strict=True):
                rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
                rows[:, : plane.width] = values
                plane.update(rows.tobytes())
            frame.pts, frame.time_base = number, Fraction(1, 10)
            frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = 9, transfer, 9, 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frame = frames_of(path, size=196)[0]
    columns = (np.arange(6) * 32 + 16) * 196 // 192
    np.testing.assert_allclose(frame.image[40, columns], np.tile(grey[::32, None] * 255, 3), atol=4)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        f"is in {hdr.NAMES[transfer]} (high dynamic range)"
    ]


@pytest.mark.parametrize(("matrix", "number"), [("ITU709", 1), ("ITU601", 5)])
@pytest.mark.parametrize("wide_range", [False, True])
def test_colours_are_those_of_the_matrix(tmp_path, matrix, number, wide_range):
    """One colour, (200, 60, 40), within 3: PyAV below 17 gave (186, 46, 41) for BT.709."""
    pixels = np.full((48, 64, 3), (200, 60, 40), np.uint8)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = add(container, crf="4")
        stream.codec_context.colorspace, stream.codec_context.color_range = number, 2 if wide_range else 1
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=matrix, dst_color_range="JPEG" if wide_range else "MPEG"
        )
        frame.pts, frame.time_base = 0, Fraction(1, 10)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (frame,) = frames_of(tmp_path / "a.mp4")
    np.testing.assert_allclose(frame.image[20, 28], (200, 60, 40), atol=3)


@pytest.mark.parametrize(("low", "high"), [(21_000, 23_500), (0, 4_095), (0, 65_535)])
def test_grey_video_of_16_bits(tmp_path, caplog, low, high):
    values = np.linspace(low, high, 48 * 64).reshape(48, 64).astype(np.uint16)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray16le"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(values, format="gray16le")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    image = frames_of(tmp_path / "a.mkv", size=70)[1].image
    assert int(image.max()) - int(image.min()) > 190
    assert len(caplog.records) == (high != 65_535)


def test_a_tile_of_a_picture_is_no_video(tmp_path):
    """A damaged HEIC without its ending: FFmpeg would find a video of one tile."""
    Image.new("RGB", (600, 600)).save(tmp_path / "a.heic")
    data = bytearray((tmp_path / "a.heic").read_bytes())
    place = data.index(b"iloc")
    data[place : place + 4] = b"free"
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.bin: is (a HEIC or AVIF picture that is damaged|not a video)"):
        frames_of(tmp_path / "a.bin")


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "libvpx-vp9"])
def test_threads_change_nothing(tmp_path, codec, monkeypatch):
    """Damaged at random, 8 times: the same frames, told damaged in the same places, as without threads."""
    options = {"libx264": {"g": "8", "bf": "2"}, "libx265": {"x265-params": "log-level=none:frame-threads=1"}}.get(
        codec, {}
    )
    path = write_video(tmp_path / "a.mkv", 24, codec=codec, codec_options=options, noisy=True)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    opened = VideoReader._open

    def shown():
        found = []
        for raw in VideoReader(path).raw_frames():
            try:
                found.append((raw.index, raw.timestamp, raw.read().image.tobytes()))
            except SourceError:
                found.append((raw.index, "damaged"))
        return found

    for count in (0, *[3] * 8):
        data = bytearray(whole)
        for place in random.integers(len(data) // 4, len(data) * 4 // 5, count):
            data[place] = random.integers(256)
        path.write_bytes(data)
        with_threads = shown()
        with monkeypatch.context() as patch:
            patch.setattr(VideoReader, "_open", lambda self, threads=False: opened(self))
            assert with_threads == shown()
