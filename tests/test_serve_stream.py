"""The server's results are those of `stream` on the frames that it took, whoever else is there.

Three slots of the tiny model, frames of 42×28 as WebP without loss, a budget of three frames a layer, so that tokens are evicted;
in the slow test submaps of four frames, too. Results agree within 1e-4: a batch of three is another program than one stream.
"""

import base64
import io
import json
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction

import av
import jax
import numpy as np
import pytest
from PIL import Image
from serving import CACHE, HELLO, LIMITS, SUBMAPS, coded, entered, frame, opened, running, service, told
from streaming import HEIGHT, WIDTH

from ivggt_jax import Model, SubmapConfig, cameras_from_pose, stream, unproject
from ivggt_jax.client import Client
from ivggt_jax.serve.service import Service
from ivggt_jax.sources import Fit
from ivggt_jax.writers.result import LONGEST_FOCAL

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def three(tiny: Model) -> Iterator[tuple[str, Service]]:
    serving = service(tiny)
    with running(serving) as address:
        yield address, serving


def expected(model: Model, images: list[np.ndarray], submaps: SubmapConfig | None = None):
    """Predictions of `stream`, and cameras, for each frame."""
    images = [np.round(255 * image).astype(np.uint8) for image in images]
    for found in stream(model, images, CACHE, heads=("camera", "depth"), submaps=submaps):
        yield found, *map(np.asarray, cameras_from_pose(found.pose_encoding, HEIGHT, WIDTH))


def assert_as_expected(model: Model, images: list[np.ndarray], answers: list[dict], submaps=None) -> None:
    assert [answer["number"] for answer in answers] == list(range(len(images)))
    for answer, (found, cam_from_world, intrinsics) in zip(answers, expected(model, images, submaps), strict=True):
        np.testing.assert_allclose(answer["cam_from_world"], cam_from_world, atol=TOLERANCE)
        (*sent, middle), (*wanted, centre) = map(lenses, (np.array(answer["intrinsics"], float), as_sent(intrinsics)))
        np.testing.assert_allclose(sent, wanted, atol=TOLERANCE)
        np.testing.assert_array_equal(middle, centre)
        np.testing.assert_allclose(answer["depth"], found.depth, rtol=2e-3)  # float16
        if submaps is not None:
            assert (answer["submap"], answer["part"]) == (found.map.submap, found.map.part)


def lenses(intrinsics: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Half the fields of view in radians, for a focal length of 1,500 pixels rounds badly; and the principal point."""
    return *np.arctan2((WIDTH / 2, HEIGHT / 2), (intrinsics[0, 0], intrinsics[1, 1])), intrinsics[:2, 2]


def as_sent(intrinsics: np.ndarray) -> np.ndarray:
    """In pixels of the picture that was sent: the tiny model's focal length may be infinite, which is sent as the longest."""
    return Fit((WIDTH, HEIGHT), (1.0, 1.0), (0.0, 0.0)).intrinsics_to_original(np.minimum(intrinsics, LONGEST_FOCAL))


def test_clients_get_what_stream_gives_them(tiny: Model, videos: np.ndarray, three):
    follow_and_compare(tiny, videos, three[0])


@pytest.mark.slow
def test_clients_with_submaps_get_what_stream_gives_them(tiny: Model, videos: np.ndarray):
    with running(service(tiny, submaps=SUBMAPS)) as address:
        follow_and_compare(tiny, videos, address, SUBMAPS)


def follow_and_compare(tiny: Model, videos: np.ndarray, address: str, submaps: SubmapConfig | None = None) -> None:
    """Three clients at once, each at its own pace, and one that takes the slot of another and begins anew."""

    def follow(number: int) -> list[dict]:
        client = Client(f"ws://{address}/stream", want=["depth"])
        answers = [client.send(coded(image), format="webp") for image in videos[: 10 - number, number]]
        client.close()
        return answers

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(follow, range(3)))
    found.append(follow(1))
    for number, answers in zip((0, 1, 2, 1), found, strict=True):
        assert_as_expected(tiny, list(videos[: 10 - number, number]), answers, submaps)


def test_frames_that_were_dropped_leave_no_trace(tiny: Model, videos: np.ndarray, three):
    """All at once: of those that wait only the newest is taken, and every frame has exactly one answer."""
    address, serving = three
    images = videos[:, 0]
    with entered(address, want=["depth"]) as socket:
        for number, image in enumerate(images):
            socket.send(frame(number, coded(image)))
        answers = sorted((told(socket) for _ in images), key=lambda answer: answer["id"])
    assert [answer["id"] for answer in answers] == list(range(len(images)))
    taken = [answer for answer in answers if answer["type"] == "result"]
    assert {answer["reason"] for answer in answers if answer["type"] == "dropped"} <= {"newer"}
    assert taken[-1]["id"] == len(images) - 1 and taken[-1]["timestamp"] == pytest.approx(1.5)
    for answer in taken:
        answer["depth"] = np.frombuffer(answer["depth"]["data"], "<f2").reshape(HEIGHT, WIDTH)
    assert_as_expected(tiny, [images[answer["id"]] for answer in taken], taken)
    assert serving.slots.held <= 1


def test_everything_that_can_be_asked_for(tiny: Model, videos: np.ndarray, three):
    """As MessagePack and as JSON; points are the depth's, and a 16-bit PNG is as exact as its unit."""
    address, _ = three
    image = videos[0, 0]
    found, cam_from_world, intrinsics = next(expected(tiny, [image]))
    points = unproject(found.depth, cam_from_world, intrinsics)
    client = Client(f"ws://{address}/stream", want=["depth", "confidence", "points"])
    answer = client.send(coded(image), 1.25, "webp")
    client.close()
    assert answer["timestamp"] == 1.25
    np.testing.assert_allclose(answer["points"], points, rtol=1e-3, atol=TOLERANCE)
    np.testing.assert_allclose(answer["confidence"], found.depth_confidence, rtol=2e-3)
    with opened(address) as socket:
        socket.send(json.dumps({**HELLO, "want": ["depth", "confidence"], "depth": "png16"}))
        assert json.loads(socket.recv(30))["size"] == [WIDTH, HEIGHT]
        data = base64.b64encode(coded(image)).decode()
        socket.send(json.dumps({"type": "frame", "id": 7, "format": "webp", "data": data}))
        answer = json.loads(socket.recv(30))
    assert answer["id"] == 7 and answer["timestamp"] is None
    png, unit = Image.open(io.BytesIO(base64.b64decode(answer["depth"]["png"]))), answer["depth"]["unit"]
    np.testing.assert_allclose(np.asarray(png) * unit, found.depth, atol=unit)
    confidence = np.frombuffer(base64.b64decode(answer["confidence"]["data"]), "<f2")
    np.testing.assert_allclose(confidence.reshape(answer["confidence"]["shape"]), found.depth_confidence, rtol=2e-3)


def test_a_frame_of_another_shape_has_its_own_pixels(tiny: Model, videos: np.ndarray, three):
    """84×28 is put between white bands: the camera is that of the picture that was sent, and bands have no depth."""
    address, _ = three
    client = Client(f"ws://{address}/stream", want=["depth"])
    answer = client.send(coded(np.concatenate([videos[0, 0], videos[0, 1]], axis=1)), format="webp")
    client.close()
    assert answer["scale"] == [0.5, 0.5] and answer["offset"] == [0, 7]
    assert answer["intrinsics"][0][2] == pytest.approx(42.5) and answer["intrinsics"][1][2] == pytest.approx(14.5)
    assert not answer["depth"][:7].any() and not answer["depth"][21:].any() and answer["depth"][7:21].all()


def test_a_video_goes_through_a_decoder_of_its_own(three):
    """H.264, one picture a message: dropped pieces break it off until its next key frame; B-frames are refused."""
    address, _ = three
    pieces = h264(["tune=zerolatency", "g=4"], 8)
    assert len(pieces) == 8
    client = Client(f"ws://{address}/stream")
    assert [client.send(piece, format="h264")["number"] for piece in pieces[:3]] == [0, 1, 2]
    client.close()
    answers = [client.send(piece, format="h264") for piece in pieces[4:]]
    assert [answer["number"] for answer in answers] == [0, 1, 2, 3]
    client.close()
    with entered(address) as socket:
        for number, piece in enumerate(h264(["bf=2", "b_strategy=0"], 8)):
            socket.send(frame(number, piece, "h264"))
        answers = [told(socket) for _ in range(8)]
    assert any("B-frames" in answer.get("error", "") for answer in answers)


def h264(options: list[str], count: int) -> list[bytes]:
    """A moving gradient of 64×48 as Annex B, a picture a piece."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuv420p", Fraction(1, 10)
    encoder.options = dict(option.split("=") for option in options)
    ramp = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    pictures = [av.VideoFrame.from_ndarray(np.stack([np.roll(ramp, 3 * i, 1)] * 3, -1), "rgb24") for i in range(count)]
    return [bytes(packet) for picture in [*pictures, None] for packet in encoder.encode(picture)]


def test_what_is_counted(videos: np.ndarray, three):
    address, made = three
    with entered(address) as socket:
        socket.send(frame(0, coded(videos[0, 0])))
        assert told(socket)["type"] == "result"
        told_now = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
    lines = dict(line.rsplit(" ", 1) for line in told_now.splitlines() if line[0] != "#")
    assert float(lines['ivggt_frames_total{outcome="answered"}']) >= 1
    assert float(lines["ivggt_latency_seconds_count"]) == float(lines['ivggt_frames_total{outcome="answered"}'])
    assert float(lines['ivggt_slots{state="held"}']) + float(lines['ivggt_slots{state="free"}']) == 3
    assert 0 < max(float(value) for name, value in lines.items() if name.startswith("ivggt_cache_fill")) <= 1
    assert urllib.request.urlopen(f"http://{address}/healthz").read() == b"ok\n"
    until = time.monotonic() + 10
    while made.slots.held and time.monotonic() < until:  # the client has left
        time.sleep(0.02)
    told_now = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
    fills = [float(line.rsplit(" ", 1)[1]) for line in told_now.splitlines() if line.startswith("ivggt_cache_fill")]
    assert fills and not any(fills)


def test_tracks_are_in_the_pixels_that_were_sent(tiny: Model, videos: np.ndarray):
    """A picture of twice the size: four query points come back where they were put, in its pixels."""
    queries = np.array([[10, 8], [30, 8], [10, 20], [30, 20]], np.float32)
    options = {"heads": ("camera", "depth", "tracks"), "query_points": queries[None]}
    image = np.repeat(np.repeat(videos[0, 0], 2, 0), 2, 1)
    with running(service(tiny, 1, replace(LIMITS), **options)) as address:
        client = Client(f"ws://{address}/stream", want=["tracks"])
        answer = client.send(coded(image), format="webp")
        client.close()
    np.testing.assert_allclose(answer["tracks"], 2 * queries + 0.5, atol=1.5)
    assert answer["visibility"].shape == (4,) and jax.tree.leaves(answer["cam_from_world"])
