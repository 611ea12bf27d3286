"""The page of a run: served on loopback, and read over its socket as a browser does."""

import base64
import contextlib
import io
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec.msgpack
import numpy as np
import pytest
import viser
import zstandard
from PIL import Image
from websockets.sync.client import connect
from writer_scene import camera, result, saved, tracked

from ivggt_jax import view
from ivggt_jax.depth_colours import colour
from ivggt_jax.runs.address import web_address
from ivggt_jax.runs.resume import begin
from ivggt_jax.sources import SourceConfig
from ivggt_jax.viewer import full_size
from ivggt_jax.viewer import page as viewer_page
from ivggt_jax.viewer.full_size import FullSize, with_tracks
from ivggt_jax.viewer.page import View, saved_lengths
from ivggt_jax.writers import ExportOptions, Writers, write_run_json
from ivggt_jax.writers.drawn import MOST_EACH, MOST_POINTS
from ivggt_jax.writers.trails import colour as hue

PATIENCE = 120
"""Seconds after which the page is taken for stuck."""


def save(run: Path, first: int, last: int) -> None:
    writers = Writers(["npz"], run, ExportOptions(), first)
    for index in range(first, last):
        writers.write(result(index))
    writers.close()


def buffer(raw: bytes, end: int, sizes: list[int], number: int) -> np.ndarray:
    """The bytes of one of a message's arrays, which lie behind its text, each at a multiple of 8."""
    for size in sizes[: number + 1]:
        start = -(-end // 8) * 8
        end = start + size
    return np.frombuffer(raw, np.uint8, sizes[number], start)


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
        self.colours: dict[str, np.ndarray] = {}
        self.cameras: set[str] = set()
        self.camera: tuple = ()
        self.place: tuple = ()
        view = {"wxyz": (1, 0, 0, 0), "position": (0, 0, 0), "look_at": (0, 0, 1), "up_direction": (0, -1, 0)}
        view |= {"image_height": 600, "image_width": 800, "fov": 1.0, "near": 0.01, "far": 1000.0}
        self._send({"type": "ViewerCameraMessage", **view})  # whoever says where it looks from is a page to the server

    def _send(self, message: dict) -> None:
        self._socket.send(msgspec.msgpack.encode(message))

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
                sizes = told["binaryBufferLengths"]
                self.points[message["name"]] = sizes[place] // 3
                self.colours[message["name"]] = buffer(raw, 16 + size, sizes, place).reshape(-1, 3)
            elif kind == "CameraFrustumMessage":
                self.cameras.add(message["name"])
            elif kind == "SetSceneNodeVisibilityMessage":
                self.hidden[message["name"]] = not message["visible"]
            elif kind == "RemoveSceneNodeMessage":
                self.points.pop(message["name"], None)
                self.cameras.discard(message["name"])
            elif kind == "SetCameraPositionMessage":
                self.place = message["position"]
            elif kind == "SetCameraLookAtMessage":
                self.camera = message["look_at"]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            self.listen()

    def set(self, label: str, value: float | str) -> None:
        """What the user does."""
        self._send({"type": "GuiUpdateMessage", "uuid": self.controls[label], "updates": {"value": value}})

    def click(self, name: str) -> None:
        """On a thing in the scene."""
        ray = {"ray_origin": (0, 0, 0), "ray_direction": (0, 0, 1), "screen_pos": (0, 0), "modifier": None}
        self._send({"type": "SceneNodeClickMessage", "name": name, "instance_index": None, "owner": "", **ray})

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


def test_a_page_has_the_runs_name_and_an_address_that_browsers_take(tmp_path: Path, monkeypatch) -> None:
    """Of the folder that one is in; of IPv6."""
    labels, make = [], viser.ViserServer
    monkeypatch.setattr(viser, "ViserServer", lambda **options: labels.append(options["label"]) or make(**options))
    monkeypatch.chdir(tmp_path)
    with View(Path("."), 0, lambda: None):
        assert labels == [f"ivggt_jax · {tmp_path.name}"]
    assert (web_address("::1", 8080), web_address("localhost", 80)) == ("http://[::1]:8080", "http://localhost:80")


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


def test_it_plays_to_the_end_and_stops(tmp_path: Path, open_page, monkeypatch) -> None:
    monkeypatch.setattr(viewer_page, "SECONDS_BETWEEN_PLAYED", 0.01)
    save(tmp_path, 0, 4)
    browser = open_page(tmp_path)
    browser.until(lambda: browser.shows("frame").get("value") == 3)
    assert browser.controls.keys() >= {"play", "full size"}
    browser.set("play", True)
    seen = []
    browser.until(lambda: seen.append(browser.shows("frame")["value"]) or len(set(seen)) > 1)
    browser.until(lambda: browser.shows("frame")["value"] == 3 and browser.shows("play")["label"] == "play")
    assert 0 in seen or 1 in seen


def test_points_are_coloured_as_is_chosen(tmp_path: Path, open_page) -> None:
    save(tmp_path, 0, 1)
    browser = open_page(tmp_path)
    browser.until(lambda: "/points/000000" in browser.points)
    browser.set("confidence", 0)
    browser.until(lambda: browser.points["/points/000000"] == MOST_EACH)
    known = {tuple(colour) for colour in result(0).frame.image.reshape(-1, 3)}
    colours = browser.colours["/points/000000"]
    assert set(map(tuple, colours)) <= known
    ramp = colour(np.linspace(0, 1, 1001)).astype(int)
    for choice in ("depth", "confidence"):
        before = browser.colours["/points/000000"]
        browser.set("colour", choice)
        browser.until(lambda before=before: browser.colours["/points/000000"] is not before)
        shown = np.unique(browser.colours["/points/000000"], axis=0)[::20, None]
        assert np.abs(shown.astype(int) - ramp).sum(axis=-1).min(axis=1).max() <= 3


def test_a_click_on_a_camera_chooses_its_frame_and_the_page_follows(tmp_path: Path, open_page) -> None:
    save(tmp_path, 0, 3)
    browser = open_page(tmp_path)
    browser.until(lambda: "/cameras/000001" in browser.cameras and browser.shows("frame").get("value") == 2)
    browser.click("/cameras/000001")
    browser.until(lambda: browser.shows("frame")["value"] == 1)
    browser.set("follow camera", True)
    pose = camera(1)

    def looks_along() -> bool:
        """From behind the camera to a point before it."""
        ways = [np.subtract(place, pose[:, 3]) @ pose[:, :3] for place in (browser.place, browser.camera) if len(place)]
        return len(ways) == 2 and np.allclose([way[:2] for way in ways], 0, atol=1e-5) and ways[0][2] < 0 < ways[1][2]

    browser.until(looks_along)
    browser.set("cameras", False)
    browser.until(lambda: not browser.cameras)


def test_the_picture_is_shown_as_large_as_its_file(tmp_path: Path, open_page) -> None:
    Image.new("RGB", (900, 600), (10, 200, 30)).save(tmp_path / "large.png")
    with contextlib.closing(Writers(["npz"], tmp_path, ExportOptions())) as writers:
        item = tracked(0)
        writers.write(replace(item, frame=replace(item.frame, path=tmp_path / "large.png")))
    browser = open_page(tmp_path)
    browser.until(lambda: "1 frame, 1 of them" in str(browser.shows("GuiMarkdownMessage")))
    browser.set("full size", True)
    browser.until(lambda: "<img" in str(browser.shows("GuiHtmlMessage").get("content")))
    data = re.search(r"base64,([^\"]+)", browser.shows("GuiHtmlMessage")["content"])[1]
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == (900, 600) and np.abs(np.subtract(shown.getpixel((450, 300)), (10, 200, 30))).max() < 4


def test_where_no_page_can_be_is_said_at_once(tmp_path: Path) -> None:
    """viser tries a thousand ports of an address of another machine, and then waits for ever. (192.0.2.1 is for examples.)"""
    with pytest.raises(OSError, match=r"cannot listen at 192.0.2.1: .*; --host takes another"):
        View(tmp_path, 0, lambda: None, host="192.0.2.1")
    with pytest.raises(ValueError, match="--port is a number from 0 to 65535, not 70000"):
        View(tmp_path, 70000, lambda: None)


def test_a_video_is_asked_for_again_when_its_run_has_ended(tmp_path: Path, monkeypatch) -> None:
    """During a run no run.json names the video: the frame is as the model saw it, then, not for good."""
    item, known = result(3), []
    frame = replace(item.frame, path=None)
    monkeypatch.setattr(full_size, "recorded_source", lambda run: known[0] if known else None)
    monkeypatch.setattr(full_size.Decoded, "picture", lambda self, frame: Image.new("RGB", (900, 600)))
    full = FullSize(tmp_path)
    assert full.picture(replace(item, frame=frame)).size == (168, 112)
    known.append(SourceConfig(frames="video.mp4"))
    assert full.picture(replace(item, frame=frame)).size == (900, 600)


def test_pictures_have_their_tracks_and_fall_back_to_what_the_model_saw(tmp_path: Path) -> None:
    item = tracked(3)
    paths = saved(tmp_path, [tracked(index) for index in range(3)])._paths
    drawn = with_tracks(item, paths)
    u, v = (5 * item.tracks[item.visibility > 0][0] + 2).round().astype(int)
    assert drawn.size == (5 * 168, 5 * 112) and drawn.getpixel((u, v)) == hue(int(np.flatnonzero(item.visibility)[0]))
    assert with_tracks(result(3), paths).size == (168, 112)
    full = FullSize(tmp_path)
    for gone in (None, tmp_path / "gone.png"):
        found = full.picture(replace(item, frame=replace(item.frame, path=gone)))
        np.testing.assert_array_equal(found, item.frame.image)


def test_a_run_that_has_just_begun_is_waited_for(tmp_path: Path, open_page, monkeypatch) -> None:
    shown = []
    monkeypatch.setattr(View, "wait", lambda page: shown.append(page.address))
    begin(tmp_path, {"export": ["tum", "npz"]})
    with pytest.raises(SystemExit) as stopped:
        view.main([str(tmp_path), "--port", "0"])
    assert stopped.value.code == 0 and shown
    browser = open_page(tmp_path)
    browser.until(lambda: "nothing to see yet" in str(browser.shows("GuiMarkdownMessage")))
    begin(tmp_path, {"export": ["tum"]})  # and keeps no frames
    with pytest.raises(SystemExit) as stopped:
        view.main([str(tmp_path)])
    assert stopped.value.code == 1


def test_a_damaged_frame_is_left_out(tmp_path: Path, open_page, monkeypatch) -> None:
    monkeypatch.setattr(viewer_page, "SECONDS_BETWEEN_LOOKS", 0.05)
    save(tmp_path, 0, 1)
    (tmp_path / "frames" / "000000.npz").write_bytes(b"damaged")
    browser = open_page(tmp_path)
    browser.until(lambda: "1 frame, 0 of them drawn" in str(browser.shows("GuiMarkdownMessage")))
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
    assert "run ivggt with --export npz first" in capsys.readouterr().err
