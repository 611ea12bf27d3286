"""Damaged images and videos: never a traceback, a crash, a hang, or memory without bound."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PEAK_MIB = 3000
"""One image of the largest size that is accepted takes 0.5 GiB a copy with transparency, and three copies."""


def fuzz(folder, images, videos, seed, patience):
    """In a process of its own, where a crash of a decoder is seen; `patience` seconds only tell a hang."""
    command = [sys.executable, str(HERE / "fuzz_sources.py"), str(folder), str(images), str(videos), str(seed)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    print(report)
    assert sum(report["image"].values()) == images and sum(report["video"].values()) == videos
    assert report["peak_memory_mib"] < PEAK_MIB
    return report


def test_damaged_files(tmp_path):
    report = fuzz(tmp_path, images=300, videos=60, seed=0, patience=300)
    for kind in ("image", "video"):
        assert report[kind]["refused"] > 10 and report[kind]["read"] > 10  # the damage does something, and not too much


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_ten_thousand_damaged_files(tmp_path, seed):
    fuzz(tmp_path, images=1700, videos=300, seed=seed, patience=1800)
