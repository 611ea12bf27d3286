"""What bundle adjustment does to the paths of six rendered rooms: python tools/adjustment/rooms.py

Each room has 30 frames of 392×294, of seeds that nothing was chosen on. For a run with submaps and for one stream it prints the
trajectory error after Sim3, in metres, before and after `ivggt export --refine-ba`, and how wrong the focal length is.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ivggt_jax.evaluate.trajectory import evaluate_trajectory
from ivggt_jax.evaluate.walks import FIELD_OF_VIEW, HELD_OUT_SEED, Walk, WalkPart
from ivggt_jax.trajectories.tables import poses_from_tum, read_table

SEEDS = range(HELD_OUT_SEED + 200, HELD_OUT_SEED + 206)
FRAMES, HEIGHT, WIDTH = 30, 294, 392


def ivggt(*arguments: object) -> None:
    """Run the command, whose messages are shown only if it fails."""
    words = [sys.executable, "-m", "ivggt_jax", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def error(trajectory: Path, truth: np.ndarray) -> float:
    """Trajectory error after Sim3 in metres; truth [S,3,4] is world_from_cam."""
    return evaluate_trajectory(poses_from_tum(read_table(trajectory, 8)[0]), truth).summary()["ate"]


def focal_error(intrinsics: Path) -> float:
    """Mean focal length along x over the true one, minus 1."""
    rows = read_table(intrinsics, 7)[0]
    return float(rows[:, 1].mean() / (WIDTH / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW) / 2)) - 1)


def adjusted(room: WalkPart, folder: Path, options: tuple[str, ...]) -> tuple[float, float]:
    """The errors of a room's path before and after the adjustment, which are printed with those of the focal length."""
    frames, out = folder / "frames", folder / "out"
    frames.mkdir(exist_ok=True)
    for number, image in enumerate(room.images):
        Image.fromarray(image).save(frames / f"{number:06d}.png")
    ivggt(frames, "--out", out, "--overwrite", "--export", "tum", "intrinsics", "npz", *options)
    ivggt("export", out, "--to", "tum", "intrinsics", "--refine-ba")
    places = out, out / "refined"
    before, after = (error(place / "trajectory.txt", room.world_from_cam) for place in places)
    focal = " → ".join(f"{focal_error(place / 'intrinsics.txt'):+.1%}" for place in places)
    kept = json.loads((out / "refined" / "refinement.json").read_text())["accepted"]
    print(f"{before:.4f} → {after:.4f} m, focal length {focal}, {'kept' if kept else 'not kept'}", flush=True)
    return before, after


def main() -> None:
    """Both runs of each room, and the medians."""
    for options in ((), ("--submaps", "off")):
        print(" ".join(options) or "with submaps")
        errors = []
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                errors.append(adjusted(Walk("loop", seed, HEIGHT, WIDTH).part(0, FRAMES), Path(folder), options))
        before, after = np.median(errors, axis=0)
        print(f"median: {before:.4f} → {after:.4f} m; smaller in {sum(b < a for a, b in errors)} of {len(errors)}")


if __name__ == "__main__":
    main()
