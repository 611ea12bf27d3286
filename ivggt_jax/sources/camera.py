"""Cameras as a source: a thread keeps only the latest frame, so that the model never falls behind."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ivggt_jax.sources.frame import Picture, RawFrame, SourceError

OPEN_SECONDS = 10.0
SILENT_SECONDS = 10.0
"""A camera that delivers nothing for this long counts as lost."""
READ_SECONDS = 5.0
"""Time after which OpenCV gives up on a frame from an address; less than the consumer's, so that it is reopened first."""
RECONNECT_SECONDS = 30.0
"""How long to keep trying to reopen a lost camera."""
SECONDS_BETWEEN_TRIES = 1.0

logger = logging.getLogger(__name__)


class Capture(Protocol):
    """The part of OpenCV's VideoCapture that is used."""

    def read(self) -> tuple[bool, Any]:
        """Wait for the next frame: (True, uint8 [H,W,3] in BGR order), or (False, anything) at the end."""

    def release(self) -> None:
        """Close the device."""


class CameraReader:
    """Reads a camera in a thread; frames that are not taken before the next one comes are dropped and counted."""

    resumable = False
    left_out = 0
    read_ahead = False
    length = None
    expected_length = None

    def __init__(
        self,
        address: str,
        capture: Capture,
        stride: int = 1,
        silent_seconds: float = SILENT_SECONDS,
        reopen: Callable[[], Capture] | None = None,
    ):
        """reopen: opens a lost camera again, or raises SourceError; None: do not try."""
        self.dropped = 0
        self._reopen = reopen
        self._address = address
        self._capture = capture
        self._stride = stride
        self._silent_seconds = silent_seconds
        self._changed = threading.Condition()
        self._latest: tuple[int, float, np.ndarray] | None = None
        self._heard = 0.0
        self._ended: str | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"camera {address}", daemon=True)

    def raw_frames(self) -> Iterator[RawFrame]:
        """Every stride-th frame, if still the latest when requested; its timestamp is the Unix time of arrival.

        Raises SourceError when the camera ends, fails or falls silent, or was read before.
        """
        if self._thread.ident is not None:
            raise SourceError(f"{self._address}: a camera can be read only once; open it again")
        self._heard = time.monotonic()
        self._thread.start()
        while True:
            with self._changed:
                while not (self._latest or self._ended) and (left := self._seconds_left()) > 0:
                    self._changed.wait(left)
                taken, self._latest = self._latest, None
            if taken is None:
                why = self._ended or f"no frame for {self._silent_seconds:g} s"
                raise SourceError(f"{self._address}: the camera is lost: {why}; check its cable or connection")
            index, timestamp, image = taken
            where = f"{self._address}, frame {index}"
            yield RawFrame(index, timestamp, f"{index:06d}", where, partial(_to_rgb, image, where))

    def close(self) -> None:
        """Stop the thread and release the camera. A thread blocked in the driver is left to end by itself."""
        self._stopping = True
        if self._thread.ident is None:
            self._capture.release()
        else:
            self._thread.join(timeout=2.0)

    def _seconds_left(self) -> float:
        """Seconds until the camera counts as lost, measured from the latest frame, including those the stride skips."""
        return self._heard + self._silent_seconds - time.monotonic()

    def _read(self) -> Any | None:
        """The next picture. If the camera is lost, the first one after reconnecting, or None if that fails."""
        good, image = self._capture.read()
        if good:
            return image
        if self._reopen is None or self._stopping:
            return None
        logger.warning("%s: the camera is lost; it is tried again for %g s", self._address, RECONNECT_SECONDS)
        until = time.monotonic() + RECONNECT_SECONDS
        self._heard = until  # its silence is expected meanwhile
        while time.monotonic() < until:
            time.sleep(SECONDS_BETWEEN_TRIES)
            if self._stopping:
                break
            self._capture.release()
            with suppress(SourceError):
                self._capture = self._reopen()
                good, image = self._capture.read()
                if good:
                    logger.warning("%s: the camera is there again", self._address)
                    return image
        return None

    def _run(self) -> None:
        index = 0
        ended = "it was closed"
        try:
            while not self._stopping:
                image = self._read()
                if image is None:
                    ended = f"it stopped after {index} frames (unplugged, or the stream ended)"
                    break
                self._heard = time.monotonic()
                if index % self._stride == 0:
                    with self._changed:
                        self.dropped += self._latest is not None
                        self._latest = (index, time.time(), image)
                        self._changed.notify()
                index += 1
        except Exception as error:  # passed to the consumer, who would otherwise wait forever
            ended = f"reading it failed after {index} frames ({error})"
        finally:
            self._capture.release()  # here, not in `close`: releasing while another thread reads crashes OpenCV
            with self._changed:
                self._ended = ended
                self._changed.notify()


def open_capture(address: str) -> Capture:
    """Open `cam:N` (the N-th camera of this computer) or an address (`rtsp://`, `http://`, `udp://`) with OpenCV.

    Raises SourceError when OpenCV is not installed, the address is malformed, or nothing answers.
    """
    number = address.removeprefix("cam:")
    if address.startswith("cam:") and not number.isdecimal():
        raise SourceError(f"{address}: a camera is cam: and its number, as in cam:0")
    try:
        import cv2
    except ImportError:
        raise SourceError(f"{address}: cameras need OpenCV: pip install 'ivggt_jax[camera]'") from None
    if address.startswith("cam:"):
        capture = cv2.VideoCapture(int(number))
        advice = "is it plugged in, free, and allowed for you? cam:0 is the first"
    else:
        milliseconds = int(1000 * OPEN_SECONDS)
        patience = int(1000 * READ_SECONDS)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, patience]
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
        advice = "check address, user and password with a player such as VLC or ffplay"
    if not capture.isOpened():
        raise SourceError(f"{address}: the camera cannot be opened; {advice}")
    return capture


def _to_rgb(image: np.ndarray, where: str) -> Picture:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise SourceError(f"{where}: is {image.dtype} {image.shape}, not uint8 [H,W,3]")
    return Picture(Image.fromarray(np.ascontiguousarray(image[..., ::-1])))
