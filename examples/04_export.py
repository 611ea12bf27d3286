"""COLMAP and nerfstudio folders, as programs for Gaussian splatting read them: python examples/04_export.py [FOLDER]"""

import sys
from itertools import islice
from pathlib import Path

from ivggt_jax import CacheConfig, load, stream
from ivggt_jax.runs.run import make_result
from ivggt_jax.sources import SourceConfig, open_source
from ivggt_jax.writers import ExportOptions, Writers
from ivggt_jax.writers.exports import EXPORTS
from ivggt_jax.writers.saved_run import SavedRun

FRAMES = Path(__file__).parent / "room" / "frames"


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "ivggt_out/example")
    options = ExportOptions(confidence=20, images=FRAMES)
    model = load("demo")
    with open_source(SourceConfig(frames=str(FRAMES), size=model.config.image_size)) as source:
        frames = list(islice(source, 8))
    writers = Writers(["npz", "tum"], out, options)
    predictions = stream(model, (frame.image for frame in frames), CacheConfig(total_budget=2_000))
    for frame, predicted in zip(frames, predictions, strict=True):
        writers.write(make_result(frame, predicted, points_from_depth=True))
    writers.close()
    for name in ("colmap", "nerfstudio"):  # both from the saved frames, in memory that does not grow with them
        EXPORTS[name](SavedRun(out), out, options)
    print(*sorted(path.name for path in out.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
