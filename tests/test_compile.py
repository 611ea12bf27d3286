"""An artefact computes what `step` computes, to the bit, where neither Flax nor this package can be imported.

The tiny model, 28×42, with three frames' tokens in each layer: eviction begins with the fourth.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from exact import as_users_do, exact
from streaming import HEIGHT, TOKENS, WIDTH

from ivggt_jax import CacheConfig, Model, Predictions, SubmapConfig, geometry, init_stream, save, step
from ivggt_jax.compile.__main__ import main
from ivggt_jax.compile.artifact import Artifact, this_device

BUDGET = 4 * 3 * TOKENS
ENVIRONMENT = {**os.environ, "XLA_FLAGS": as_users_do()}
ALONE = """
import sys
sys.modules.update(flax=None, ivggt_jax=None)
from artifact import Artifact
import numpy as np

artifact, videos = Artifact(), np.load(sys.argv[1])
state, found = artifact.start(), []
for images in videos:
    state, seen = artifact.step(state, images)
    found.append({name: np.asarray(x) for name, x in seen.items()})
np.savez(sys.argv[2], **{name: np.stack([x[name] for x in found]) for name in found[0]})
"""


@pytest.fixture(scope="module")
def checkpoint(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compile") / "tiny"
    save(tiny, path)
    return path


@pytest.fixture(scope="module")
def images(videos: np.ndarray) -> np.ndarray:
    """Seven frames of two streams, uint8."""
    return np.round(255 * videos[:7, :2]).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(checkpoint: Path) -> Path:
    out = checkpoint.with_name("artifact")
    run(checkpoint, "--out", out, "--batch", 2, "--heads", "camera", "--executables")
    return out


def run(checkpoint: Path, *options: object) -> None:
    """The command, in a process that compiles as users' do."""
    arguments = [checkpoint, "--size", f"{WIDTH}x{HEIGHT}", "--budget", BUDGET, *options]
    command = [sys.executable, "-m", "ivggt_jax.compile", *map(str, arguments)]
    subprocess.run(command, check=True, env=ENVIRONMENT)


def streamed(tiny: Model, images: np.ndarray, **options) -> Predictions:
    """What `step` finds in frames [T,B,H,W,3]."""
    cache, found = CacheConfig(total_budget=BUDGET), []
    state = init_stream(tiny, cache, height=HEIGHT, width=WIDTH, batch=2, **options)
    for frame in images:
        state, seen = exact(step, donate_argnames="state")(tiny, state, frame)
        found.append(jax.tree.map(np.array, seen))
    return jax.tree.map(lambda *x: np.stack(x), *found)


def test_an_artefact_is_the_stream_to_the_bit(folder: Path, tiny: Model, images: np.ndarray, tmp_path: Path):
    """Executables of this machine, in a process that has neither Flax nor this package."""
    np.save(tmp_path / "images.npy", images)
    arguments = [sys.executable, "-c", ALONE, tmp_path / "images.npy", tmp_path / "found.npz"]
    subprocess.run(arguments, cwd=folder, check=True, env=ENVIRONMENT)
    found = np.load(tmp_path / "found.npz")
    expected = streamed(tiny, images, heads=("camera",))
    np.testing.assert_array_equal(found["pose_encoding"], expected.pose_encoding)
    cameras = geometry.cameras_from_pose(found["pose_encoding"], HEIGHT, WIDTH)
    np.testing.assert_allclose(found["cam_from_world"], cameras[0], atol=1e-6)
    np.testing.assert_allclose(found["intrinsics"], cameras[1], rtol=1e-6)


def test_a_stream_begins_anew(folder: Path, images: np.ndarray):
    """One of two, by programs that are compiled here, as another release of JAX would."""
    artifact = Artifact(folder)
    artifact.manifest["executables"] = None
    state = artifact.start()
    for frame in images[:3]:
        state, _ = artifact.step(state, frame)
    state = artifact.reset(state, np.array([True, False]))
    _, again = artifact.step(state, images[0])
    _, first = artifact.step(artifact.start(), images[0])
    np.testing.assert_array_equal(again["pose_encoding"][0], first["pose_encoding"][0])
    assert (again["pose_encoding"][1] != first["pose_encoding"][1]).any()


def test_executables_are_for_one_kind_of_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """On another, with other instructions, the loader compiles."""
    here = json.loads((folder / "manifest.json").read_text())["executables"]
    assert here == ["cpu", jax.__version__, this_device()]
    monkeypatch.setattr("ivggt_jax.compile.artifact.machine", lambda: "another")
    assert this_device() != here[2]


def test_programs_for_a_gpu_need_none(folder: Path):
    exported = jax.export.deserialize(bytearray((folder / "step.cuda.export").read_bytes()))
    assert exported.platforms == ("cuda",)


def test_what_cannot_be_loaded(folder: Path, tmp_path: Path):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    content = bytearray((damaged / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "weights.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="weights.safetensors is damaged"):
        Artifact(damaged)
    manifest = (damaged / "manifest.json").read_text()
    (damaged / "manifest.json").write_text(manifest.replace('"cpu"', '"tpu"'))
    with pytest.raises(ValueError, match="no programs for cpu"):
        Artifact(damaged)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "."], ". exists: choose another --out"),
        (["--out", "new", "--batch", "0"], "--batch must be at least 1"),
        (["--out", "new", "--size", "42"], "--size must be like 518x392"),
        (["--out", "new", "--size", "42x30"], "30"),
        (["--out", "new", "--budget", "7"], "a budget of 7 in all is below"),
        (["--out", "new", "--platforms", "cuda", "--executables"], "--executables are for cpu"),
        (["--out", "new", "--platforms", "cpu", "cpu"], "--platforms needs cpu, cuda or both, each once"),
        (["--out", "new", "--heads"], "--heads needs at least one of"),
        (["--out", "new", "--heads", "motion"], "no parameters for motion"),
        (["--out", "new", "--heads", "camera", "--submaps", "16"], "--submaps are linked by camera and depth"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], words: str, checkpoint: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([str(checkpoint), *options])
    assert ended.value.code == 1
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv, which makes environments")
@pytest.mark.parametrize(("python", "tolerance"), [("3.11", 0.0), ("3.13", 1e-4)])
def test_an_environment_of_jax_and_numpy(
    python: str, tolerance: float, checkpoint: Path, tiny: Model, images: np.ndarray, tmp_path: Path
):
    """With submaps: this release of JAX, by executables and to the bit, and the newest one that is allowed."""
    folder, venv, found = (tmp_path / name for name in ("artifact", "venv", "found.npz"))
    run(checkpoint, "--out", folder, "--batch", 2, "--submaps", 4, "--executables")
    np.save(tmp_path / "images.npy", images)
    options = ["--no-python-downloads", "--python", python, venv]
    if subprocess.run(["uv", "venv", *options]).returncode:
        pytest.skip(f"there is no Python {python}")
    release = f"jax=={jax.__version__}" if python == "3.11" else "jax<0.13"
    subprocess.run(["uv", "pip", "install", "--python", venv, release, "numpy", "flatbuffers"], check=True)
    arguments = [venv / "bin" / "python", "-c", ALONE, tmp_path / "images.npy", found]
    environment = {"JAX_PLATFORMS": "cpu", "PATH": os.defpath, "XLA_FLAGS": ENVIRONMENT["XLA_FLAGS"]}
    subprocess.run(arguments, cwd=folder, check=True, env=environment)
    expected = streamed(tiny, images, heads=("camera", "depth"), submaps=SubmapConfig(frames=4))
    for name in ("depth", "pose_encoding"):
        np.testing.assert_allclose(np.load(found)[name], getattr(expected, name), rtol=tolerance, atol=tolerance)
