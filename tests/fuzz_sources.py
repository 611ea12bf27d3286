"""Damages images and videos at random and reads them: `python tests/fuzz_sources.py FOLDER IMAGES VIDEOS SEED`.

Prints one line of JSON with counts, the longest time for a file and the peak memory. Anything that is not a frame or
a SourceError ends the process with a traceback; the file that did it stays in FOLDER.
"""

import io
import json
import logging
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sample_video import write_video

from ivggt_jax.sources import SourceConfig, SourceError, open_source


def image_seeds():
    """Encoded images of many kinds: (ending, bytes)."""
    random = np.random.default_rng(0)
    colour = Image.fromarray(random.integers(0, 256, (40, 56, 3), dtype=np.uint8)).resize((80, 60))
    alpha = Image.fromarray(random.integers(0, 256, (40, 56, 4), dtype=np.uint8))
    deep = Image.fromarray(random.integers(0, 65536, (40, 56), dtype=np.uint16))
    moving = {"save_all": True, "append_images": [colour.rotate(90), colour.rotate(180)]}
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    kinds = [
        ("jpg", colour, {"exif": exif}),
        ("jpg", colour, {"progressive": True}),
        ("jpg", colour.convert("CMYK"), {}),
        ("jpg", colour.convert("L"), {}),
        ("png", colour, {}),
        ("png", alpha, {}),
        ("png", deep, {}),
        ("png", colour.quantize(16), {"transparency": 3}),
        ("png", colour.convert("1"), {}),
        ("png", colour, moving),
        ("webp", colour, {}),
        ("webp", alpha, {"lossless": True}),
        ("webp", colour, moving),
        ("gif", colour, moving),
        ("tif", colour, {"compression": "tiff_lzw"}),
        ("tif", deep, {}),
        ("tif", colour, {"compression": "jpeg"}),
        ("tif", colour.convert("CMYK"), {}),
        ("tif", Image.new("F", (20, 20), 0.5), {}),
        ("bmp", colour, {}),
        ("ppm", colour, {}),
        ("pgm", deep, {}),
        ("heic", colour, {}),
        ("heic", alpha, moving),
        ("avif", alpha, {}),
        ("avif", colour, moving),
        ("jp2", alpha, {}),
        ("tga", alpha, {}),
        ("qoi", alpha, {}),
        ("pcx", colour, {}),
        ("sgi", alpha, {}),
        ("tif", deep, {"save_all": True, "append_images": [deep, colour]}),
        ("png", Image.new("RGB", (1, 1)), {}),
        ("jpg", Image.new("RGB", (1, 1)), {}),
        ("png", Image.new("RGB", (400, 1)), {}),
    ]
    formats = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM", "heic": "HEIF", "jp2": "JPEG2000"}
    for ending, image, options in kinds:
        encoded = io.BytesIO()
        image.save(encoded, format=formats.get(ending, ending.upper()), **options)
        yield ending, encoded.getvalue()


def video_seeds(folder):
    """Encoded videos of many kinds: (ending, bytes)."""
    kinds = [
        ("mp4", "libx264", {"noisy": True}),
        ("mp4", "libx264", {"options": {"movflags": "faststart"}}),
        ("mp4", "libx264", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("mp4", "mpeg4", {}),
        ("mkv", "libx264", {"codec_options": {"g": "4", "bf": "2"}}),
        ("mkv", "mjpeg", {"codec_options": {"strict": "unofficial"}}),
        ("webm", "libvpx-vp9", {}),
        ("ts", "libx264", {}),
        ("avi", "mpeg4", {}),
        ("h264", "libx264", {}),
    ]
    for ending, codec, options in kinds:
        yield ending, write_video(folder / f"seed.{ending}", count=16, codec=codec, **options).read_bytes()
    pictures = [Image.new("P", (30, 20), number) for number in range(4)]
    pictures[0].save(folder / "seed.gif", save_all=True, append_images=pictures[1:])
    yield "gif", (folder / "seed.gif").read_bytes()


def damaged(data, random):
    """Truncated, noisy, holed, spliced, or with one header field blown up; sometimes left whole or left empty."""
    data = bytearray(data)
    size = len(data)
    kind = random.integers(9)
    if kind in (0, 1):
        del data[random.integers(size) :]
    elif kind in (2, 3):
        for place in random.integers(0, size, random.integers(1, 40)):
            data[place] = random.integers(256)
    elif kind == 4:
        place = random.integers(size)
        data[place : place + random.integers(1, 200)] = bytes(random.integers(1, 200))
    elif kind == 5:
        place, other = random.integers(0, size, 2)
        data[place:place] = data[other : other + 100]
    elif kind == 6:
        place = random.integers(min(size, 200))
        data[place : place + 4] = random.choice(
            [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\xff\xff", bytes(4)]
        )
    elif kind == 7:
        for place in random.integers(0, min(size, 64), 3):
            data[place] = random.integers(256)
    elif random.integers(4) == 0:
        data.clear()
    return bytes(data)


def read(config):
    """Read a source to its end; what came of it in one word."""
    try:
        with open_source(config) as source:
            for frame in source:
                assert frame.image.dtype == np.uint8 and frame.image.shape[1] == 70, frame
    except SourceError as error:
        assert config.frames in str(error) and "\n" not in str(error), str(error)
        return "refused"
    return "some frames left out" if source.skipped else "read"


def peak_memory_mib():
    """Largest resident memory of this process; 0 where there is no /proc (getrusage also counts the parent's)."""
    status = Path("/proc/self/status")
    return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) // 1024 if status.exists() else 0


def main(folder, images, videos, seed):
    """Fuzz and return what to report."""
    logging.disable(logging.WARNING)
    random = np.random.default_rng(seed)
    seeds = {"image": list(image_seeds()), "video": list(video_seeds(folder))}
    report = {"image": Counter(), "video": Counter(), "longest_seconds": 0.0}
    for kind in ["image"] * images + ["video"] * videos:
        ending, data = seeds[kind][random.integers(len(seeds[kind]))]
        if random.integers(20) == 0:
            ending = ("jpg", "png", "tif", "mp4", "mkv")[random.integers(5)]
        path = folder / f"damaged.{ending}"
        path.write_bytes(damaged(data, random))
        options = {
            "size": 70,
            "mode": ("crop", "pad")[random.integers(2)],
            "on_error": ("stop", "skip")[random.integers(2)],
        }
        if ending in ("mp4", "mkv", "ts", "webm", "avi") and random.integers(2):
            options |= {"start": 0.5, "fps": 4.0}
        began = time.monotonic()
        report[kind][read(SourceConfig(frames=str(path), **options))] += 1
        report["longest_seconds"] = max(report["longest_seconds"], round(time.monotonic() - began, 3))
    report["peak_memory_mib"] = peak_memory_mib()
    return report


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:5]))))
