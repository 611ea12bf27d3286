"""`infer --moving`: what is told to move is left out, now and in later exports; what is refused. Frames of 70×56."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import FRAMES, read_npz, run
from PIL import Image

from ivggt_jax import Model, export, save
from ivggt_jax.infer import main
from ivggt_jax.train.start import extended


@pytest.fixture(scope="module")
def telling(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a random head that tells what moves."""
    path = tmp_path_factory.mktemp("model") / "telling"
    save(extended(tiny, ("motion",), False, jax.random.key(3)), path)
    return path


def masks_of(out: Path) -> list[np.ndarray]:
    return [read_npz(path)["mask"] for path in sorted((out / "frames").iterdir())]


def test_what_moves_is_left_out_now_and_later(telling: Path, folder: Path, tmp_path: Path) -> None:
    """And its masks, given to a run that tells nothing of its own, give that run's clouds and path."""
    out = tmp_path / "out"
    options = ("--checkpoint", telling, "--submaps", 3, "--confidence", 0, "--export", "npz", "ply", "tum", "masks")
    assert run(main, "--frames", folder, "--out", out, "--moving", "separate", *options) == 0
    saved = [read_npz(path) for path in sorted((out / "frames").iterdir())]
    moving = np.array([frame["moving"] for frame in saved])
    assert len(moving) == FRAMES and 0 < moving.mean() < 1
    for index, frame in enumerate(saved):
        np.testing.assert_array_equal(frame["mask"], ~frame["moving"])
        header = (out / "moving" / f"{index:06d}.ply").read_bytes().split(b"end_header")[0].decode()
        assert f"element vertex {frame['moving'].sum()}\n" in header
    assert json.loads((out / "run.json").read_text())["moving_told_by"] == "the model's head"
    assert run(export.main, out, "--to", "ply", "moving", "--into", tmp_path / "later", "--confidence", 0) == 0
    for name in ("points.ply", "moving/000002.ply"):
        assert (tmp_path / "later" / name).read_bytes() == (out / name).read_bytes()
    shutil.copytree(out / "masks", tmp_path / "masks")
    again = ("--out", tmp_path / "again", "--masks", tmp_path / "masks")
    assert run(main, "--frames", folder, *again, *options) == 0
    np.testing.assert_array_equal(masks_of(tmp_path / "again"), ~moving)
    record = json.loads((tmp_path / "again" / "run.json").read_text())
    assert record["moving_told_by"] is None and not (tmp_path / "again" / "moving").exists()


def test_masks_of_the_user_compose(telling: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    given = np.full((56, 70), 255, np.uint8)
    given[:, :30] = 0
    for path in folder.iterdir():
        Image.fromarray(given).save(tmp_path / "masks" / path.name)
    options = ("--checkpoint", telling, "--submaps", 3, "--masks", tmp_path / "masks", "--export", "npz")
    assert run(main, "--frames", folder, "--out", tmp_path / "out", "--moving", "drop", *options) == 0
    for path in (tmp_path / "out" / "frames").iterdir():
        frame = read_npz(path)
        assert not frame["mask"][:, :30].any() and not frame["moving"][:, :30].any()
        np.testing.assert_array_equal(frame["mask"][:, 30:], ~frame["moving"][:, 30:])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--export", "moving"), "--export moving writes what moves: it needs --moving separate"),
        (("--moving", "drop", "--heads", "camera", "--export", "tum"), "it needs --heads depth"),
        (("--moving", "drop", "--split", 2), "leave --moving out"),
    ],
)
def test_what_it_cannot_do_is_said(checkpoint: Path, folder: Path, tmp_path: Path, options, words: str, capsys) -> None:
    assert run(main, "--frames", folder, "--checkpoint", checkpoint, "--out", tmp_path / "out", *options) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_run_that_kept_what_moves_has_none_to_export(telling: Path, folder: Path, tmp_path: Path, capsys) -> None:
    out, options = tmp_path / "out", ("--submaps", 3, "--export", "npz")
    assert run(main, "--frames", folder, "--checkpoint", telling, "--out", out, *options) == 0
    assert run(export.main, out, "--to", "moving", "masks") == 1
    assert "run ivggt with --moving separate" in capsys.readouterr().err
    assert len(list((out / "masks").iterdir())) == FRAMES, "the others are written"
