"""Logs of a run: lines, pictures, and what happens to them on resuming."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ivggt_jax.train.metrics import Metrics


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_hold_scalars_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    with Metrics(tmp_path / "run") as metrics:
        metrics.write(1, "train", {"loss": np.float32(0.5), "task/depth": float("nan")})
        metrics.write(1, "evaluation", {"depth": 2})
    assert lines(tmp_path / "run") == [
        {"step": 1, "split": "train", "loss": 0.5, "task/depth": None},
        {"step": 1, "split": "evaluation", "depth": 2.0},
    ]


def test_resuming_drops_later_entries_and_a_half_written_line(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        for step in range(1, 6):
            metrics.write(step, "train", {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "spl')
    with Metrics(tmp_path, step=3) as metrics:
        metrics.write(4, "train", {"loss": 40})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    with Metrics(tmp_path):
        pass
    assert lines(tmp_path) == []


def test_lines_that_are_no_entries_are_left_out(tmp_path: Path) -> None:
    foreign = [
        "[1, 2]",
        "null",
        "3",
        '"x"',
        "[" * 100_000,
        '{"step": "1"}',
        '{"split": "train"}',
        '{"step": NaN}',
        "\ufeff",
        "",
    ]
    good = [
        '{"step": 1, "split": "evaluation", "error": 0.5}',
        '{"step": 2, "error": 0.1}',
        '{"step": 2, "split": "evaluation"}',
    ]
    good.append('{"step": 3, "split": "evaluation", "error": "low"}')
    (tmp_path / "metrics.jsonl").write_text("\n".join([*foreign, *good]) + "\n", encoding="utf-8")
    with Metrics(tmp_path, step=3) as metrics:
        assert metrics.lowest("evaluation", "error") == 0.5
    assert lines(tmp_path) == [json.loads(line) for line in good]


def test_a_line_is_on_disk_once_written(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.write(1, "train", {"loss": 1})
        assert len(lines(tmp_path)) == 1


def test_pictures_and_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    with Metrics(tmp_path, tensorboard=True) as metrics:
        metrics.write(7, "train", {"loss": 1.5})
        metrics.image(7, "depth", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "images" / "depth_00000007.png")), picture)
    (events,) = tmp_path.glob("events.out.tfevents.*")
    content = events.read_bytes()
    assert b"train/loss" in content
    assert b"depth" in content
