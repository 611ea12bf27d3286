"""The command, its options, the page, the client's imports, and the example with Ray Serve."""

import re
import runpy
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from serving import coded, running, service

from ivggt_jax import CacheConfig, Model
from ivggt_jax.client import Client
from ivggt_jax.serve import service as service_module
from ivggt_jax.serve.__main__ import main
from ivggt_jax.serve.application import PAGE
from ivggt_jax.serve.listen import listening_socket
from ivggt_jax.serve.options import Limits, ServeConfig, is_loopback
from ivggt_jax.serve.service import load_service

ROOT = Path(__file__).parents[1]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says when it fails."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    return capsys.readouterr().err


def test_other_machines_need_a_token(capsys: pytest.CaptureFixture[str]):
    assert "give a --token" in said(capsys, "--host", "0.0.0.0")
    assert "give a --token" in said(capsys, "--host", "::", "--token", "")
    known = {"127.0.0.1": True, "127.8.8.8": True, "::1": True, "[::1]": True, "localhost": True}
    known |= {"0.0.0.0": False, "10.0.0.1": False, "example.org": False, "localhost.example.org": False, "": False}
    assert {host: is_loopback(host) for host in known} == known


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]):
    with listening_socket("127.0.0.1", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        assert f"cannot listen at 127.0.0.1:{port}" in said(capsys, "--port", f"{port}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clients": 0}, "--clients must be more than 0"),
        ({"limits": Limits(silence=0)}, "--silence must be more than 0"),
        ({"limits": Limits(frame_pixels=-1)}, "--frame-pixels must be"),
        ({"width": 100}, "--width must be a positive multiple of 14"),
        ({"height": 0}, "--height must be"),
        ({"track_grid": -1}, "--track-grid must be 0 or more"),
        ({"submaps": "1"}, "--submaps is auto, off"),
        ({"token": ""}, "--token is empty"),
        ({"token": "x" * 1025}, "--token has 1,025 characters, and clients can send 1,024"),
    ],
)
def test_options_that_make_no_sense(options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        load_service(ServeConfig(**options))


def test_the_service_is_what_the_options_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The cache fits the memory with all clients together; heads follow from the options."""
    offered: list[tuple[int, CacheConfig]] = []

    def fitted(model, cache, height, width, room):
        offered.append((room.free, cache))
        return CacheConfig(total_budget=4_000)

    monkeypatch.setattr(service_module, "free_cache", fitted)
    made = load_service(ServeConfig(clients=3, track_grid=2, token="x"))
    assert made.size == (112, 84) and made.slots.count == 3 and made.tracks and made.token == "x"
    load_service(ServeConfig(clients=1, width=56, height=42, submaps="off"))
    assert offered[0][0] < offered[1][0] / 2 and offered[0][1].total_budget == 15_274
    assert "3 streams of 112×84, 4,000 tokens each" in capsys.readouterr().err
    assert ServeConfig().size(518) == (518, 392) and ServeConfig(width=14).size(518) == (14, 14)


def test_the_page_needs_nothing_from_elsewhere(tiny: Model):
    text = PAGE.read_text()
    assert not re.search(r"https?://|<link|src=|import", text)
    with running(service(tiny, heads=("camera",))) as address:
        page = urllib.request.urlopen(f"http://{address}/")
        assert page.read().decode() == text
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_the_client_needs_no_jax():
    program = "import sys, ivggt_jax.client; print(sorted({'jax', 'flax', 'av', 'PIL'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "[]\n"
    assert len(Path(ROOT / "ivggt_jax" / "client" / "__init__.py").read_text().splitlines()) < 90


def test_the_example_runs(tiny: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    example = ROOT / "examples" / "live_client.py"
    with running(service(tiny, limits=Limits(age=60))) as address:
        monkeypatch.setattr(sys, "argv", [str(example), f"ws://{address}/stream"])
        runpy.run_path(str(example), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"frame {number}" for number in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGINT]])
def test_the_command_serves_until_it_is_told_to_end(signals: list[signal.Signals]):
    """With the demo model at a quarter of its size. The second Ctrl-C of an impatient person is no error, either."""
    command = [sys.executable, "-m", "ivggt_jax", "serve", "--port", "0", "--clients", "1", "--width", "56"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        address = re.search(r"http://(\S+)", line)
        assert address is not None
        client = Client(f"ws://{address[1]}/stream", patience=300)
        assert client.send(coded(np.zeros((42, 56, 3), np.uint8)), format="webp")["number"] == 0
        for number in signals:
            process.send_signal(number)
            time.sleep(0.05)
        assert process.wait(60) == 130
        assert "Traceback" not in process.stderr.read()
        client.close()


@pytest.mark.slow
def test_ray_serve_deploys_it(monkeypatch: pytest.MonkeyPatch):
    """Two replicas of one slot each on CPUs: two clients each have a stream of their own, and keep it."""
    ray = pytest.importorskip("ray")
    serve = pytest.importorskip("ray.serve", exc_type=ImportError)
    for name, value in {"CLIENTS": "1", "REPLICAS": "2", "GPUS": "0", "BUDGET": "4000"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(ROOT))
    ray.init(
        num_cpus=3, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}}
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": 8765})
        serve.run(runpy.run_path(str(ROOT / "examples" / "ray" / "serve.py"))["application"])
        clients = [Client("ws://127.0.0.1:8765/stream", patience=120) for _ in range(2)]
        image = coded(np.zeros((84, 112, 3), np.uint8))
        numbers = [[client.send(image, format="webp")["number"] for client in clients] for _ in range(3)]
        for client in clients:
            client.close()
        assert numbers == [[0, 0], [1, 1], [2, 2]]
    finally:
        serve.shutdown()
        ray.shutdown()
