import itertools
import sys
import threading
import time

import numpy as np
import pytest

from ivggt_jax.sources import Source, SourceConfig, SourceError, camera, open_source
from ivggt_jax.sources.camera import CameraReader, open_capture


class FakeCapture:
    """Delivers frame after frame, each when `ready` is released, then ends, fails or falls silent."""

    def __init__(self, count, at_the_end="unplugged"):
        self.ready = threading.Semaphore(0)
        self.unblock = threading.Event()
        self.count = count
        self.at_the_end = at_the_end
        self.given = 0
        self.released = threading.Event()

    def read(self):
        if self.given == self.count and self.at_the_end == "silent":
            self.unblock.wait(20)
            return False, None
        self.ready.acquire(timeout=20)
        if self.given == self.count:
            if self.at_the_end == "fails":
                raise OSError("USB fell asleep")
            return False, None
        image = np.zeros((6, 8, 3), np.uint8)
        image[..., 0], image[..., 2] = 200, self.given  # blue, red
        self.given += 1
        return True, image

    def release(self):
        self.released.set()


def deliver(reader, capture, count):
    """Let the camera deliver frames and wait until its thread has dealt with them."""
    for _ in range(count):
        before = capture.given
        capture.ready.release()
        wait_until(lambda before=before: capture.given == before + 1)
    wait_until(lambda: reader._latest is not None and reader._latest[0] == capture.given - 1)


def wait_until(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited 20 s in vain")


def camera_source(capture, stride=1, **limits):
    reader = CameraReader("cam:0", capture, stride, **limits)
    return reader, Source(SourceConfig(frames="cam:0", size=28, stride=stride), reader)


def test_the_latest_frame_is_taken_and_the_others_counted():
    capture = FakeCapture(count=6)
    reader, source = camera_source(capture)
    with source:
        frames = source.frames()
        capture.ready.release()
        first = next(frames)
        assert (first.index, first.name, source.dropped) == (0, "000000", 0)
        assert first.image.shape == (28, 28, 3)
        assert first.image[0, 0].tolist() == [0, 0, 200]  # blue is the last channel now
        assert abs(first.timestamp - time.time()) < 60
        deliver(reader, capture, 4)
        latest = next(frames)
        assert latest.index == 4 and latest.image[0, 0, 0] == 4
        assert source.dropped == 3
        deliver(reader, capture, 1)
        assert next(frames).index == 5
        capture.ready.release()
        with pytest.raises(SourceError, match="cam:0: the camera is lost: it stopped after 6 frames"):
            next(frames)
    assert capture.released.wait(20)


def test_stride_counts_what_the_camera_delivers():
    capture = FakeCapture(count=5)
    _, source = camera_source(capture, stride=4)
    with source:
        frames = source.frames()
        capture.ready.release()
        assert next(frames).index == 0
        for _ in range(4):
            capture.ready.release()
        assert next(frames).index == 4
        assert source.dropped == 0
        capture.ready.release()


def test_a_failing_camera():
    capture = FakeCapture(count=0, at_the_end="fails")
    capture.ready.release()
    _, source = camera_source(capture)
    with source, pytest.raises(SourceError, match="failed after 0 frames .USB fell asleep"):
        next(source.frames())
    assert capture.released.is_set()


def test_a_silent_camera():
    capture = FakeCapture(count=0, at_the_end="silent")
    _, source = camera_source(capture, silent_seconds=0.05)
    with pytest.raises(SourceError, match=r"no frame for 0.05 s"):
        next(source.frames())
    capture.unblock.set()
    source.close()
    assert capture.released.is_set()


def test_a_lost_camera_is_opened_again(monkeypatch, caplog):
    """At the second try; frames are counted on."""
    monkeypatch.setattr(camera, "SECONDS_BETWEEN_TRIES", 0.01)
    first, second = FakeCapture(count=2), FakeCapture(count=10**6)
    answers = [SourceError("not yet"), second]

    def reopen():
        if isinstance(answer := answers.pop(0), SourceError):
            raise answer
        return answer

    _, source = camera_source(first, reopen=reopen)
    with source:
        frames = source.frames()
        first.ready.release()
        assert next(frames).index == 0
        first.ready.release()
        assert next(frames).index == 1
        first.ready.release()
        second.ready.release(10**6)
        assert next(frames).index >= 2
    assert first.released.is_set() and second.released.wait(20) and not answers
    said = [record.message for record in caplog.records]
    assert said == ["cam:0: the camera is lost; it is tried again for 30 s", "cam:0: the camera is there again"]


def test_a_camera_that_stays_lost_is_given_up(monkeypatch):
    monkeypatch.setattr(camera, "RECONNECT_SECONDS", 0.05)
    monkeypatch.setattr(camera, "SECONDS_BETWEEN_TRIES", 0.01)
    capture, tries = FakeCapture(count=1), []

    def reopen():
        tries.append(time.monotonic())
        raise SourceError("nothing answers")

    _, source = camera_source(capture, reopen=reopen)
    with source:
        frames = source.frames()
        capture.ready.release(2)
        assert next(frames).index == 0
        with pytest.raises(SourceError, match="the camera is lost: it stopped after 1 frames"):
            next(frames)
    assert tries


def test_frames_that_the_stride_passes_over_are_a_sign_of_life():
    capture = FakeCapture(count=100)
    capture.read = lambda: (time.sleep(0.02), FakeCapture.read(capture))[1]
    capture.ready.release(100)
    _, source = camera_source(capture, stride=50, silent_seconds=0.5)  # 50 frames take a second
    with source:
        assert [frame.index for frame in itertools.islice(source.frames(), 2)] == [0, 50]


def test_closing_ends_the_thread():
    capture = FakeCapture(count=1000)
    reader, source = camera_source(capture)
    with source:
        frames = source.frames()
        capture.ready.release(1000)
        next(frames)
    assert not reader._thread.is_alive()
    assert capture.released.is_set()


def test_closing_before_reading_releases_the_camera():
    capture = FakeCapture(count=1)
    with camera_source(capture)[1]:
        pass
    assert capture.released.is_set()


def test_a_camera_cannot_be_read_twice_or_resumed():
    capture = FakeCapture(count=2)
    _, source = camera_source(capture)
    with source:
        capture.ready.release(3)
        next(source.frames())
        with pytest.raises(SourceError, match="read only once"):
            next(source.frames())
        with pytest.raises(SourceError, match="cannot be resumed"):
            source.frames(start=5)


def test_grey_pictures_are_refused():
    capture = FakeCapture(count=1)
    capture.read = lambda: (True, np.zeros((6, 8), np.uint8))
    _, source = camera_source(capture)
    with source, pytest.raises(SourceError, match=r"frame \d+: is uint8 \(6, 8\)"):
        next(source.frames())


def test_length_is_unknown():
    with camera_source(FakeCapture(1))[1] as source:
        assert source.length is None and source.expected_length is None


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SourceError, match=r"pip install 'ivggt_jax\[camera\]'"):
        open_capture("cam:0")


@pytest.mark.parametrize("address", ["cam:", "cam:front", "cam:-1", "cam:1.5"])
def test_malformed_address(address):
    with pytest.raises(SourceError, match="as in cam:0"):
        open_source(SourceConfig(frames=address))


class FakeOpenCV:
    """Stands in for the cv2 module; remembers what was opened."""

    CAP_FFMPEG, CAP_PROP_OPEN_TIMEOUT_MSEC, CAP_PROP_READ_TIMEOUT_MSEC = 1900, 53, 54

    def __init__(self, answers):
        self.answers, self.opened = answers, []

    def VideoCapture(self, *arguments):
        self.opened.append(arguments)
        capture = FakeCapture(count=1)
        capture.isOpened = lambda: self.answers
        capture.ready.release(2)
        return capture


def test_addresses_reach_opencv(monkeypatch):
    opencv = FakeOpenCV(answers=True)
    monkeypatch.setitem(sys.modules, "cv2", opencv)
    for address in ("cam:2", "rtsp://door:554/live"):
        with open_source(SourceConfig(frames=address, size=28)) as source:
            assert next(iter(source)).index == 0
    assert opencv.opened[0] == (2,)
    assert opencv.opened[1] == ("rtsp://door:554/live", 1900, [53, 10_000, 54, 5_000])


def test_nothing_answers(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", FakeOpenCV(answers=False))
    for address in ("cam:7", "rtsp://nowhere"):
        with pytest.raises(SourceError, match=f"{address}: the camera cannot be opened"):
            open_source(SourceConfig(frames=address))


def test_a_capture_is_given_back_when_the_source_cannot_open(monkeypatch, tmp_path):
    capture = FakeCapture(count=1)
    monkeypatch.setattr(camera, "open_capture", lambda address: capture)
    with pytest.raises(SourceError, match="no such folder of masks"):
        open_source(SourceConfig(frames="cam:0", masks=tmp_path / "none"))
    assert capture.released.is_set()
