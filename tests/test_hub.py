"""Downloads against a stand-in for the Hub on loopback: what goes right, and every fault in one clear line."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import COMMIT, serve
from huggingface_hub import constants

from ivggt_jax.weights import hub
from ivggt_jax.weights.tensor_file import CheckpointError

NAME = "lch01/StreamVGGT"
FILE = f"{NAME}/checkpoints.pth"
CONTENT = bytes(range(256)) * 1200


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The stand-in with one published file, and caches of the test's own."""
    with serve() as running:
        running.files[FILE] = CONTENT
        point_to(running.url, tmp_path, monkeypatch)
        yield running


def point_to(url, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setenv("IVGGT_CACHE", str(folder / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def refused(because):
    return pytest.raises(CheckpointError, match=because)


def test_a_file_is_fetched_once(server):
    file, source = hub.fetch(NAME)
    assert file.read_bytes() == CONTENT
    assert source == hub.Source(name=NAME, revision=COMMIT, licence="CC BY-NC-SA 4.0, non-commercial")
    assert hub.fetch(NAME) == (file, source)
    assert server.downloads() == [None]


def test_size_and_licence_are_told_before_a_download_and_once(server, monkeypatch, capsys):
    """Here of 0.3 MB; nothing when the file is there already."""
    monkeypatch.setattr(hub, "LEAST_ANNOUNCED", 1)
    hub.fetch(NAME)
    said = capsys.readouterr().err
    assert said.startswith(
        "downloading lch01/StreamVGGT/checkpoints.pth, 0.00 GB (CC BY-NC-SA 4.0, non-commercial), to "
    )
    assert sum("downloading" in line for line in said.splitlines()) == 1
    hub.fetch(NAME)
    assert "downloading" not in capsys.readouterr().err


def test_what_does_not_fit_the_disk_is_not_begun(server, monkeypatch):
    monkeypatch.setattr(hub, "LEAST_ANNOUNCED", 1)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with refused("takes 0.00 GB and there are 0.00 GB free"):
        hub.fetch(NAME)
    assert server.downloads() == []


def test_a_hub_that_is_not_there_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    """However often the library tries again."""
    point_to("http://127.0.0.1:9", tmp_path, monkeypatch)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with refused("cannot be reached"):
        hub.fetch(NAME)
    assert capsys.readouterr().err == "the Hub does not answer as it should: trying again, for up to half a minute\n"


def test_a_cut_connection_resumes_where_it_broke(server, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    server.cuts = [100_000, 50_000]
    file, _ = hub.fetch(NAME)
    assert file.read_bytes() == CONTENT
    assert server.downloads() == [None, "bytes=100000-", "bytes=150000-"]


def test_a_file_of_the_wrong_size_is_an_error_and_not_kept(server):
    server.missing_bytes = 5
    with refused(
        f"could not be downloaded .*should be of size {len(CONTENT)} but has size {len(CONTENT) - 5}.*by hand"
    ):
        hub.fetch(NAME)
    server.missing_bytes = 0
    assert hub.fetch(NAME)[0].read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "code", "because"),
    [
        (403, "GatedRepo", "is gated: accept its terms at http.*lch01/StreamVGGT, then log in with `hf auth login`"),
        (401, "GatedRepo", "is gated"),
        (403, "", "is gated"),
        (401, "RepoNotFound", "is missing or private"),
        (404, "RepoNotFound", "is missing or private"),
        (404, "EntryNotFound", "has no file checkpoints.pth"),
        (401, "Invalid credentials in Authorization header", "does not accept the access token; .* or unset HF_TOKEN"),
    ],
)
def test_refusals_say_what_to_do(server, status, code, because):
    server.refusals[NAME] = (status, code)
    with refused(because):
        hub.fetch(NAME)


def test_a_token_opens_a_gated_repository(server, monkeypatch):
    server.token = "hf_secret"
    with refused("is gated.*HF_TOKEN"):
        hub.fetch(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert hub.fetch(NAME)[0].read_bytes() == CONTENT


def test_offline_mode_uses_what_was_downloaded(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refused("not downloaded before and offline mode is set"):
        hub.fetch(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.fetch(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch(NAME)[0].read_bytes() == CONTENT


def test_a_server_that_is_no_hub_is_named(server):
    server.strange = True
    with refused("could not be downloaded .*; try again, or download checkpoints.pth"):
        hub.fetch(NAME)


@pytest.mark.parametrize(("name", "file"), [(NAME, "checkpoints.pth"), ("someone/else", "its weights")])
def test_no_network_is_named(tmp_path, monkeypatch, name, file):
    with serve() as gone:
        point_to(gone.url, tmp_path, monkeypatch)
    # The library tries again for a while.
    monkeypatch.setattr("time.sleep", lambda _: None)
    with refused(f"{name} was not downloaded before and {gone.url} cannot be reached; connect, or download {file}"):
        hub.fetch(name)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Task error: CAS Client Error: Request middleware error"),
        ImportError("Using SOCKS proxy, but the 'socksio' package is not installed."),
        UnicodeEncodeError("ascii", "Bearer \xe4", 7, 8, "ordinal not in range(128)"),
    ],
)
def test_what_the_library_does_not_foresee_is_passed_on_with_the_way_out(monkeypatch, error):
    """As it came, for a connection lost to Xet storage, a SOCKS proxy, and a token with a letter that none has."""

    def fail(*_, **__):
        raise error

    for name in ("hf_hub_download", "get_hf_file_metadata"):
        monkeypatch.setattr(f"huggingface_hub.{name}", fail)
    with refused(f"lch01/StreamVGGT could not be downloaded .{re.escape(str(error))}.; try again, or .* by hand"):
        hub.fetch(NAME)


def test_a_full_disk_is_named(server, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, hard))
    try:
        with refused(f"no space left to write {tmp_path / 'hub'}"):
            hub.fetch(NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert hub.fetch(NAME)[0].read_bytes() == CONTENT


def test_a_model_is_prepared_once(server, tmp_path):
    calls = []

    def convert(file, source, directory):
        calls.append((file.read_bytes(), source.name))
        directory.mkdir()

    for _ in range(2):
        assert hub.cached(NAME, convert) == tmp_path / "cache" / "lch01--StreamVGGT"
    assert calls == [(CONTENT, NAME)]


def test_a_failed_preparation_leaves_nothing_and_can_be_repeated(server, tmp_path):
    def fail(file, source, directory):
        raise OSError(28, "No space left on device")

    with refused("no space left to write .*lch01--StreamVGGT; make room, or set IVGGT_CACHE"):
        hub.cached(NAME, fail)
    assert hub.cached(NAME, lambda file, source, directory: directory.mkdir()).is_dir()


WORKER = """
import sys, time
from pathlib import Path
from ivggt_jax.weights import hub

def convert(file, source, directory):
    with open(sys.argv[1], "a") as log:
        log.write("converted\\n")
    time.sleep(1.0)
    directory.mkdir()

print(hub.cached("lch01/StreamVGGT", convert))
"""


def test_two_processes_at_once_prepare_it_once(server, tmp_path):
    """Real processes, with the environment variables that a user sets."""
    log = tmp_path / "log"
    environment = os.environ | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "IVGGT_CACHE": str(tmp_path / "cache"),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-c", WORKER, str(log)]
    workers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], json.dumps(outputs)
    assert {output.strip() for output, _ in outputs} == {str(tmp_path / "cache" / "lch01--StreamVGGT")}
    assert log.read_text() == "converted\n"
    assert server.downloads() == [None]
