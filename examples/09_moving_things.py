"""A cloud without what moves, what moves in clouds of its own, and masks: python examples/09_moving_things.py"""

from pathlib import Path

import jax
import numpy as np

from ivggt_jax import CacheConfig, SubmapConfig, init_stream, load
from ivggt_jax.evaluate.walks import Walk
from ivggt_jax.runs.moving import MovingThings
from ivggt_jax.runs.run import make_result, moving_masked
from ivggt_jax.sources.frame import Fit, Frame
from ivggt_jax.writers import ExportOptions, Writers

FRAMES, HEIGHT, WIDTH = 16, 84, 112


def main() -> None:
    out, model = Path("ivggt_out/moving"), load("demo")
    walk = Walk("crowd", 1048678, HEIGHT, WIDTH).part(
        0, FRAMES
    )  # a rendered room with bodies: your own pictures do as well
    state = init_stream(model, CacheConfig(total_budget=2_000), height=HEIGHT, width=WIDTH, submaps=SubmapConfig())
    watch = MovingThings(model, state)  # by the model's head, or without one by earlier frames
    writers, told = Writers(["ply", "masks", "moving"], out, ExportOptions()), []
    for number, image in enumerate(walk.images):
        frame = Frame(image, number, number / 30, f"{number:06d}", Fit((WIDTH, HEIGHT), (1.0, 1.0), (0.0, 0.0)))
        state, found = watch.compute(state, [frame])
        predicted = jax.device_get(jax.tree.map(lambda x: x[0, 0], found))
        result = moving_masked(make_result(frame, predicted, points_from_depth=True), predicted.motion > 0.5)
        told.append(result.moving)
        writers.write(result)
    writers.close()
    print(f"{np.mean(told[5:]):.0%} of the pixels are said to move, {walk.moving[5:].mean():.0%} do")
    print(*sorted(path.name for path in out.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
