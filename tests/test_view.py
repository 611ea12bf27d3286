"""The page of a run: served on loopback, and read over its socket as a browser does."""

import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec.msgpack
import numpy as np
import pytest
import viser
import zstandard
from websockets.sync.client import connect
from writer_scene import result

from ivggt_jax import view
from ivggt_jax.viewer import page as viewer_page
from ivggt_jax.viewer.drawn import MOST_EACH, MOST_POINTS
from ivggt_jax.viewer.page import View, saved_lengths
from ivggt_jax.writers import ExportOptions, Writers, write_run_json

PATIENCE = 120
"""Seconds after which the page is taken for stuck."""


def save(run: Path, first: int, last: int) -> None:
    writers = Writers(["npz"], run, ExportOptions(), first)
    for index in range(first, last):
        writers.write(result(index))
    writers.close()


class Browser:
    """A page that is open: what the server told it, by the scene's node or by the control's label."""

    def __init__(self, address: str):
        self._socket = connect(
            address.replace("http", "ws"), subprotocols=[f"viser-v{viser.__version__}"], max_size=None
        )
        self.controls: dict[str, str] = {}
        self.values: dict[str, dict] = {}
        self.hidden: dict[str, bool] = {}
        self.points: dict[str, int] = {}
        self.camera: tuple = ()

    def listen(self) -> None:
        """Take in one message, that is, several of the server's."""
        raw = self._socket.recv(timeout=PATIENCE)
        size = int.from_bytes(raw[8:16], "little")
        told = msgspec.msgpack.decode(zstandard.decompress(raw[16 : 16 + size]))
        for message in told["messages"]:
            kind = message["type"]
            if kind.startswith("Gui") and "props" in message and "uuid" in message:
                self.controls[message["props"].get("label") or kind] = message["uuid"]
                self.values[message["uuid"]] = {"value": message.get("value"), **message["props"]}
            elif kind == "GuiUpdateMessage":
                self.values[message["uuid"]] |= message["updates"]
            elif kind == "PointCloudMessage":
                place = message["props"]["colors"]["__binary_index"]
                self.points[message["name"]] = told["binaryBufferLengths"][place] // 3
            elif kind == "SetSceneNodeVisibilityMessage":
                self.hidden[message["name"]] = not message["visible"]
            elif kind == "RemoveSceneNodeMessage":
                self.points.pop(message["name"], None)
            elif kind == "SetCameraLookAtMessage":
                self.camera = message["look_at"]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            self.listen()

    def set(self, label: str, value: float) -> None:
        """What the user does."""
        message = {"type": "GuiUpdateMessage", "uuid": self.controls[label], "updates": {"value": value}}
        self._socket.send(msgspec.msgpack.encode(message))

    def shows(self, label: str) -> dict:
        return self.values.get(self.controls.get(label, ""), {})

    def shown(self) -> list[int]:
        """Frames whose points are visible."""
        return sorted(int(name[-6:]) for name in self.points if not self.hidden.get(name))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def open_page() -> Iterator[Callable[[Path], Browser]]:
    closing = []

    def open_page(run: Path) -> Browser:
        page = View(run, 0, lambda: saved_lengths(run))
        closing.append(page.__exit__)
        page.__enter__()
        browser = Browser(page.address)
        closing.append(browser.close)
        return browser

    yield open_page
    for close in reversed(closing):
        close()


def test_the_page_is_served_to_this_machine_alone(tmp_path: Path, capsys) -> None:
    with View(tmp_path / "run", 0, lambda: None) as page:
        assert page.address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(page.address) as response:
            assert response.status == 200 and b"<html" in response.read().lower()
    assert f"look at {page.address}" in capsys.readouterr().err


def test_a_growing_run_is_followed_and_the_controls_are_obeyed(tmp_path: Path, open_page, monkeypatch) -> None:
    monkeypatch.setattr(viewer_page, "SECONDS_BETWEEN_LOOKS", 0.05)
    browser = open_page(tmp_path)
    browser.until(lambda: "frame" in browser.controls)
    save(tmp_path, 0, 3)
    write_run_json(tmp_path, {"frames": 3, "tokens_kept": {"by_layer": [1234, 99]}})
    browser.until(lambda: len(browser.points) == 3 and bool(browser.camera))
    browser.until(lambda: "1,234" in str(browser.shows("GuiHtmlMessage").get("content")))
    assert browser.points["/points/000000"] == pytest.approx(MOST_EACH / 2, rel=0.05)  # the better half
    save(tmp_path, 3, 5)
    browser.until(lambda: browser.shows("frame").get("value") == 4)
    browser.until(lambda: len(browser.points) == 5 and browser.shows("frame")["max"] == 4)
    browser.set("frame", 1)
    browser.until(lambda: browser.shown() == [0, 1])
    browser.set("this frame's points only", True)
    browser.until(lambda: browser.shown() == [1])
    browser.set("confidence", 0)
    browser.until(lambda: set(browser.points.values()) == {MOST_EACH} and len(browser.points) == 5)
    for path in (tmp_path / "frames").iterdir():
        path.unlink()
    browser.until(lambda: not browser.points)
    save(tmp_path, 0, 1)
    browser.until(lambda: list(browser.points) == ["/points/000000"])


def test_ten_thousand_frames_are_thinned_and_answered(tmp_path: Path, open_page, monkeypatch) -> None:
    """The frames' files are made up: one result, whatever is read."""
    item, read = result(0), []
    monkeypatch.setattr(
        viewer_page, "numbered", lambda folder, suffix: [Path(f"{n:06d}{suffix}") for n in range(10_000)]
    )
    monkeypatch.setattr(viewer_page, "read_result", lambda path: read.append(path) or item)
    browser = open_page(tmp_path)
    browser.until(lambda: "/points/000000" in browser.points)
    browser.set("frame", 5000)  # while the rest is still being read
    browser.until(lambda: len(browser.points) == 313)
    assert 0.9 * 313 * 2048 <= 2 * sum(browser.points.values()) <= MOST_POINTS
    browser.until(lambda: browser.shown() == list(range(0, 5001, 32)))
    assert Path("005000.npz") in read and len(read) < 313 + 5


def test_a_damaged_frame_is_left_out(tmp_path: Path, open_page, monkeypatch) -> None:
    monkeypatch.setattr(viewer_page, "SECONDS_BETWEEN_LOOKS", 0.05)
    save(tmp_path, 0, 1)
    (tmp_path / "frames" / "000000.npz").write_bytes(b"damaged")
    browser = open_page(tmp_path)
    browser.until(lambda: "1 frames, 0 of them drawn" in str(browser.shows("GuiMarkdownMessage")))
    save(tmp_path, 1, 3)
    browser.until(lambda: sorted(browser.points) == ["/points/000001", "/points/000002"] and bool(browser.camera))


def test_listing_a_long_runs_folder_takes_little_of_the_time(tmp_path: Path, open_page, monkeypatch) -> None:
    monkeypatch.setattr(viewer_page, "SECONDS_BETWEEN_LOOKS", 0.01)
    listed = []
    monkeypatch.setattr(viewer_page, "numbered", lambda folder, suffix: listed.append(time.sleep(0.1)) or [])
    open_page(tmp_path)
    time.sleep(1)
    assert len(listed) == 1


def test_lengths_come_from_the_finished_run_and_are_unknown_before(tmp_path: Path) -> None:
    assert saved_lengths(tmp_path) is None
    (tmp_path / "run.json").write_text("{")
    assert saved_lengths(tmp_path) is None
    write_run_json(tmp_path, {"tokens_kept": {"by_layer": [3, 4]}})
    np.testing.assert_array_equal(saved_lengths(tmp_path), (3, 4))


def test_a_folder_without_frames_is_an_error(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        view.main([str(tmp_path)])
    assert stopped.value.code == 1
    assert "run infer with --export npz first" in capsys.readouterr().err
