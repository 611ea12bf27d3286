"""A model as an artefact, and frames through it without Flax or this package: python examples/08_deploy.py"""

import subprocess
import sys
import tempfile
from pathlib import Path

RUN = """
import numpy as np
from artifact import Artifact  # lies in the artefact's folder

artifact, random = Artifact(), np.random.default_rng(0)
state = artifact.start()
for _ in range(3):
    images = random.integers(0, 255, artifact.manifest["images"]["shape"], np.uint8)  # yours: [batch, height, width, 3]
    state, found = artifact.step(state, images)
print("camera", np.asarray(found["cam_from_world"]).shape, "depth", np.asarray(found["depth"]).shape)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        command = [sys.executable, "-m", "ivggt_jax.compile", "demo", "--out", str(out), "--submaps", "off"]
        subprocess.run([*command, "--size", "42x28", "--platforms", "cpu"], check=True)
        alone = subprocess.run([sys.executable, "-c", RUN], cwd=out, check=True, stdout=subprocess.PIPE, text=True)
        print(alone.stdout, end="")


if __name__ == "__main__":
    main()
