"""Decodes a client's frames to the model's input: JPEG and WebP by Pillow, H.264 by FFmpeg, all with size limits."""

import io

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from PIL import Image, UnidentifiedImageError

from ivggt_jax.serve.messages import FrameFormat
from ivggt_jax.sources.fit import Size, fit_image, fit_mask
from ivggt_jax.sources.frame import Fit, SourceError
from ivggt_jax.sources.image_file import reason, to_rgb


class PictureError(ValueError):
    """A picture that cannot be decoded, or is too large."""


class Pictures:
    """Decodes the frames of one client; keeps the state of its video."""

    def __init__(self, size: Size, most_pixels: int):
        """size: width and height of the model's input. most_pixels: limit for a received picture."""
        self._size, self._most = size, most_pixels
        self._video: VideoCodecContext | None = None

    def decode(self, kind: FrameFormat, data: bytes) -> tuple[np.ndarray, np.ndarray, Fit] | None:
        """Decode a picture to the model's input.

        H.264 comes as Annex B, one whole picture per piece, without reordering (no B-frames).

        Returns:
            uint8 [H,W,3]; bool [H,W], False where padding was added; and the transform from the original. None for a piece of
            a video that completes no picture.

        Raises PictureError. A video then continues at its next key frame.
        """
        try:
            picture = self._next_of_video(data) if kind == "h264" else self._still(kind, data)
            if picture is None:
                return None
            image, fit = fit_image(picture, self._size[0], like=self._size)
        except (PictureError, SourceError) as error:
            raise PictureError(str(error)) from None
        except Exception as error:  # decoders raise almost anything on damaged data
            self.forget()
            raise PictureError(f"the {kind} data is damaged ({reason(error)})") from None
        mask = fit_mask([], fit, *image.shape[:2])
        return image, np.ones(image.shape[:2], bool) if mask is None else mask, fit

    def forget(self) -> None:
        """Reset the video decoder because a piece is missing; decoding continues at the next key frame."""
        self._video = None

    def _still(self, kind: FrameFormat, data: bytes) -> Image.Image:
        try:
            return self._opened(kind, data)
        except UnidentifiedImageError:  # whose words name an object in memory
            raise PictureError(f"the data is no {kind} picture") from None

    def _opened(self, kind: FrameFormat, data: bytes) -> Image.Image:
        with Image.open(io.BytesIO(data), formats=(kind.upper(),)) as image:  # reads only the header
            self._check(*image.size)
            image.load()
            return to_rgb(image)

    def _next_of_video(self, data: bytes) -> Image.Image | None:
        if self._video is None:
            self._video = _decoder(self._most)
        frames = self._video.decode(av.Packet(data))
        if self._video.has_b_frames:
            raise PictureError("the video reorders its pictures: encode it without B-frames (x264: tune zerolatency)")
        if not frames:
            return None
        newest = frames[-1]
        assert isinstance(newest, VideoFrame)
        self._check(newest.width, newest.height)
        return newest.to_image()

    def _check(self, width: int, height: int) -> None:
        if width * height > self._most:
            raise PictureError(f"{width}×{height} pixels are more than {self._most:,}: scale the picture down first")


def _decoder(most_pixels: int) -> VideoCodecContext:
    """A decoder without delay, which refuses large pictures before it allocates memory for them."""
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.options = {"max_pixels": f"{most_pixels}", "flags": "+low_delay"}
    decoder.thread_count = 1
    return decoder
