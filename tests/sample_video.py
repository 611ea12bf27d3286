"""Short videos for tests, made on the spot."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 64, 48
SOUND_RATE = 44100


def picture(number, width=WIDTH, height=HEIGHT, noisy=False):
    """A picture that shows its number as a grey level (8 · number) and has a red top left quarter."""
    if noisy:
        return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = np.full((height, width, 3), 8 * number % 256, np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    return pixels


def number_of(image):
    """The number that a decoded picture shows, read in its bottom right quarter."""
    height, width, _ = image.shape
    return round(float(image[3 * height // 4 :, 3 * width // 4 :].mean()) / 8)


def write_video(
    path: Path, count=24, rate=10, codec="libx264", codec_options=None, noisy=False, options=None, first=0, silence=0.0
):
    """Write `count` pictures at `rate` frames a second, from frame `first` of an empty beginning, beside `silence` seconds of
    sound; return the path."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=codec_options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("mp2", rate=SOUND_RATE) if silence else None
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, noisy=noisy), format="rgb24")
            frame.pts, frame.time_base = first + number, Fraction(1, rate)
            for packet in stream.encode(frame):
                container.mux(packet)
        container.mux(stream.encode())
        if sound is not None:
            sample = av.AudioFrame.from_ndarray(np.zeros((1, round(silence * SOUND_RATE)), np.int16), layout="mono")
            sample.sample_rate = SOUND_RATE
            container.mux(sound.encode(sample))
            container.mux(sound.encode())
    return path
