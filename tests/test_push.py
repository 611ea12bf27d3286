"""A trained student onto a stand-in for the Hub on loopback: what arrives there, its card, and who may not."""

import json
import shutil
from pathlib import Path

import pytest
from hub_server import COMMIT, serve
from huggingface_hub import ModelCard, constants
from test_hub import point_to

import ivggt_jax
from ivggt_jax import push
from ivggt_jax.weights.checkpoint import describe
from ivggt_jax.weights.upload import push_to_hub

DEMO = Path(ivggt_jax.__file__).parent / "demo"
NAME = "me/student"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serve() as running:
        point_to(running.url, tmp_path, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose servers the stand-in has not
        yield running


@pytest.fixture
def run(tmp_path) -> Path:
    """A training run's folder as the trainer leaves it, the demo model its best student at step 20 of 30."""
    folder = tmp_path / "run"
    shutil.copytree(DEMO, folder / "best")
    shutil.copytree(DEMO, folder / "student")
    config = json.loads((folder / "best" / "config.json").read_text())
    config["source"] = {"name": "run", "revision": None, "sha256": None, "licence": "a/b: CC BY-NC-SA 4.0"}
    (folder / "best" / "config.json").write_text(json.dumps(config))
    step = {
        "mode": "causal",
        "heads": ["camera", "depth"],
        "loss": {"distillation_weight": 1.0},
        "optimizer": {"learning_rate": 1e-4},
    }
    record = {"student": "/home/somebody/weights/vggt", "teacher": "lch01/StreamVGGT", "steps": 30, "seed": 4,
              "step": step,
              "data": ["scannet=/data/secret:2", "/videos"],
              "recorded": {"batch_size": 2, "frames": [4, 10]}, "synthetic": {}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"run": record}))
    entries = [
        {"step": at, "split": "evaluation", "abs_rel": error / 2, "error": error}
        for at, error in ((10, 0.5), (20, 0.25), (30, 0.75))
    ]
    lines = [json.dumps({"step": 5, "split": "train", "error": 0.1}), *map(json.dumps, entries), '{"step": 30, "spl']
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder


def test_a_runs_best_student_arrives_and_can_be_loaded(hub, run):
    address = push_to_hub(run, NAME, licence="cc-by-nc-sa-4.0")
    assert address == f"{hub.url}/{NAME}/commit/{COMMIT}"
    assert hub.commits == [(NAME, "main", "Weights of best for ivggt_jax")] and not hub.private
    for file in ("config.json", "model.safetensors"):
        assert hub.files[f"{NAME}/{file}"] == (run / "best" / file).read_bytes()
    assert len(hub.uploads) == 1  # the tensors, as a large file
    assert ivggt_jax.load(NAME).config == describe(DEMO).config


def test_the_card_says_what_is_recorded_and_no_folders(hub, run):
    push_to_hub(run, NAME, licence="cc-by-nc-sa-4.0")
    text = hub.files[f"{NAME}/README.md"].decode()
    card = ModelCard(text)
    assert (card.data.license, card.data.library_name) == ("cc-by-nc-sa-4.0", "ivggt_jax")
    for words in ("| parameters | 6,423,052", "| begun from | vggt |", "| teacher | lch01/StreamVGGT |",
                  "| data | scannet, own footage |",
                  "| frames in a clip | 4 to 10 |", "after 20 steps", "| depth: mean relative error | 0.125 |",
                  "a/b: CC BY-NC-SA 4.0",
                  f"--checkpoint {NAME}"):  # fmt: skip
        assert words in text, words
    assert "somebody" not in text and "secret" not in text and "/videos" not in text
    push_to_hub(run / "student", NAME, licence="mit")
    assert "after 30 steps" in hub.files[f"{NAME}/README.md"].decode()
    push_to_hub(DEMO, NAME, licence="apache-2.0")
    assert "Training" not in hub.files[f"{NAME}/README.md"].decode()
    (run / "best" / "README.md").write_text("---\nlicense: mit\n---\nmine")
    push_to_hub(run, NAME, licence="mit")
    assert hub.files[f"{NAME}/README.md"].decode().endswith("mine")


def test_the_command_asks_for_the_licence_and_says_how_to_use_it(hub, run, capsys):
    with pytest.raises(SystemExit) as stopped:
        push.main([str(run), NAME])
    assert stopped.value.code == 2 and not hub.requests and "license" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        push.main([str(run), NAME, "--license", "mit", "--private", "--revision", "half"])
    assert stopped.value.code == 0
    assert hub.private == {NAME} and hub.commits[0][:2] == (NAME, "half")
    assert f"use it: ivggt my_video.mp4 --checkpoint {NAME}@half" in capsys.readouterr().err
    card = hub.files[f"{NAME}/README.md"].decode()
    assert f"ivggt my_video.mp4 --checkpoint {NAME}@half\n" in card and f'load("{NAME}@half")' in card


@pytest.mark.parametrize(
    ("folder", "name", "licence", "because"),
    [("best", "student", "mit", "not the name of a repository"), ("best", NAME, "My Own", "no licence as the Hub spells"),
     ("nothing", NAME, "mit", "no checkpoint of this project")],
)  # fmt: skip
def test_what_cannot_be_pushed_is_said_before_anything_is_sent(hub, run, folder, name, licence, because):
    with pytest.raises(ValueError, match=because):
        push_to_hub(run / folder, name, licence=licence)
    assert not hub.requests


def test_a_damaged_checkpoint_is_not_pushed(hub, run):
    tensors = run / "best" / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors"):
        push_to_hub(run, NAME, licence="mit")
    assert not hub.requests


def test_whoever_may_not_write_is_told_what_to_do(hub, run, monkeypatch):
    hub.token = "right"
    with pytest.raises(ValueError, match="hf auth login"):
        push_to_hub(run, NAME, licence="mit")
    monkeypatch.setenv("HF_TOKEN", "right")
    hub.refusals[NAME] = (403, "Forbidden")
    with pytest.raises(ValueError, match="may not write to me/student"):
        push_to_hub(run, NAME, licence="mit")
    del hub.refusals[NAME]
    assert push_to_hub(run, NAME, licence="mit")
