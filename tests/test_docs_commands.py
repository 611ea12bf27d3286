"""Every command in the README and on the site: its options are there, and in a fresh environment it does what it says."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image
from sample_video import write_video

from ivggt_jax.__main__ import COMMANDS, main
from ivggt_jax.runs import command

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/tutorial.md",
    "docs/guides/stream.md",
    "docs/mapping.md",
    "docs/outputs.md",
    "docs/guides/convert.md",
    "docs/sensors.md",
    "docs/synthetic.md",
    "docs/fleet.md",
    "docs/live.md",
    "docs/guides/deploy.md",
]
"""Those whose commands are run, in this order; of the other pages options are read."""
NOT_HERE = {
    "StreamVGGT|VGGT-1B|checkpoints.pth|streamvggt/": "published weights",
    "cuda|docker": "a GPU, or containers",
    "cam:0|rtsp://": "a camera",
    "--ray --workers": "a cluster",
    "--seeds|train supervised|tools/live/trial": "what takes hours",
    "live_client": "a server beside it",
    "test": "the tests themselves",
    "ivggt push": "an account on the Hub",
    "walk.mcap": "a robot's recording",
}
"""What a command cannot have here, by what stands in it."""
ENDLESS = ("ivggt view", "ivggt serve")


def commands(page: str) -> list[str]:
    """The commands on a page, without their comments, each on one line."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [found for line in lines if (found := re.sub(r"(^|\s)#.*", "", line).strip())]


def everywhere() -> list[str]:
    pages = [*PAGES, *(f"{path.relative_to(ROOT)}" for path in sorted((ROOT / "docs").rglob("*.md")))]
    return list(dict.fromkeys(line for page in pages for line in commands(page)))


def ours(line: str) -> list[list[str]]:
    """The words of every call of this program in a line, its name left out."""
    found = []
    for part in re.split(r"&&|\|", line):
        words = shlex.split(re.sub(r"\$\(.*\)|\$\w+", "", part))
        if words[:1] == ["ivggt"]:
            found.append(words[1:])
        elif words[:2] == ["python", "-m"] and words[2].startswith(("ivggt_jax.", "convert", "train")):
            found.append([words[2].removeprefix("ivggt_jax."), *words[3:]])
    return found


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_their_options_are_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as the command itself reads them, which then does nothing."""
    read = []

    def only_read(
        config: Callable[..., object], _: object, words: list[str] | None, program: str, about: str | None
    ) -> int:
        read.append(tyro.cli(config, args=words, prog=program, description=about))
        return 0

    monkeypatch.setattr(command, "_run", only_read)
    calls = [words for line in everywhere() for words in ours(line)]
    calls = [words for words in calls if (words[0] if words[0] in COMMANDS else "") == name]
    for words in calls:
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0, words
    assert len(read) == len(calls) and calls


def prepare(place: Path, page: str) -> None:
    """What the commands of a page are given: small pictures, videos and files under the names that stand there."""
    place.mkdir()
    for name in ("examples", "tools"):
        (place / name).symlink_to(ROOT / name)
    size = (640, 480) if page == "docs/sensors.md" else (392, 196)  # as the calibrations there are
    pictures = [Image.open(path).resize(size) for path in sorted((ROOT / "examples/room/frames").iterdir())[:12]]
    folders = ["FOLDER", "shots", "rgb", "rgbd_dataset", *(["walk"] if page != "docs/synthetic.md" else [])]
    for folder in (*folders, "panoramas", "videos", "more"):
        (place / folder).mkdir()
    for number, picture in enumerate(pictures):
        for folder in folders:
            picture.save(place / folder / f"{number:04d}.{'jpg' if folder != 'rgb' else 'png'}")
        picture.resize((480, 240)).save(place / "panoramas" / f"{number:04d}.jpg")
    for folder in ("depth", "rgbd_dataset/depth"):
        (place / folder).mkdir()
        for number in range(len(pictures)):
            Image.fromarray(np.full(size[::-1], 9000, np.uint16)).save(place / folder / f"{number:04d}.png")
    lines = {"rgb": "{0:04d}.jpg", "depth": "depth/{0:04d}.png"}
    for name, path in lines.items():
        text = "".join(f"{number / 10} {path.format(number)}\n" for number in range(len(pictures)))
        (place / "rgbd_dataset" / f"{name}.txt").write_text(text)
    for name in ("my_video.mp4", "street.mp4", "videos/one.mp4", "more/two.mp4"):
        write_video(place / name, count=30, rate=10)
    write_video(place / "video.mp4", count=40, rate=2)
    listed = (
        [f"shots/{number:04d}.jpg" for number in range(6)] if "stream" in page else ["videos/one.mp4", "more/two.mp4"]
    )
    (place / "list.txt").write_text("\n".join(listed))
    (place / "list.jsonl").write_text(
        '{"source": "videos/one.mp4", "fps": 5}\n{"source": "more/two.mp4", "submaps": 8}\n'
    )
    matrix = f"[500.0, 0.0, {size[0] / 2}, 0.0, 500.0, {size[1] / 2}, 0.0, 0.0, 1.0]"
    for name, count in (("calibration.yaml", 5), ("calibration.yml", 4)):
        (place / name).write_text(
            f"image_width: {size[0]}\nimage_height: {size[1]}\ncamera_matrix: {{rows: 3, cols: 3, data: {matrix}}}\n"
            f"distortion_coefficients: {{rows: 1, cols: {count}, data: {[0.01] * count}}}\n"
        )


def shell(line: str, place: Path, environment: dict[str, str], limit: float) -> tuple[int | None, str]:
    """Exit code, None where it had to be interrupted, and what was printed."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(
        ["bash", "-c", line], cwd=place, env=environment, text=True, start_new_session=True, **streams
    )
    try:
        printed = process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        return None, process.communicate()[0]
    return process.returncode, printed


@pytest.mark.slow
def test_they_run(tmp_path: Path) -> None:
    """All of a page in order, in an environment made as the tutorial says. What one page does in several ways begins anew."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS")
    }
    environment["PATH"] = f"{tmp_path / '.venv' / 'bin'}:{environment['PATH']}"
    made = shell(f"{sys.executable} -m venv {tmp_path}/.venv && pip install -q -e '{ROOT}'", tmp_path, environment, 900)
    assert made[0] == 0, made[1]
    failed = []
    for page in PAGES:
        place = tmp_path / page.replace("/", "_")
        prepare(place, page)
        if any("OUT" in line for line in commands(page)):
            shell(
                "ivggt FOLDER --loops --submaps 10 --out OUT && cp OUT/trajectory.txt truth.txt",
                place,
                environment,
                900,
            )
            (place / "known.txt").write_text((place / "truth.txt").read_text())
        for line in commands(page):
            if any(re.search(absent, line) for absent in NOT_HERE) or line.startswith("python -m venv"):
                continue
            line = line.replace("pip install -e .", f"pip install -e {ROOT}")
            if "ivggt_out" not in line:  # what it reads was written by the line before
                shutil.rmtree(place / "ivggt_out", ignore_errors=True)
            code, printed = shell(line, place, environment, 60 if line.startswith(ENDLESS) else 900)
            print(f"{page}: {line}: {code}")
            if code != (None if line.startswith(ENDLESS) else 0) or "Traceback" in printed:
                failed.append(f"{page}: {line}: {code}\n{printed[-2000:]}")
    assert not failed, "\n\n".join(failed)
