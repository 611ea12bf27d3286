"""Three videos side by side, four frames a call; one of them starts afresh: python examples/03_many_streams.py"""

from pathlib import Path

import numpy as np

from ivggt_jax import CacheConfig, init_stream, load, reset, scan
from ivggt_jax.sources import SourceConfig, open_source

FRAMES = Path(__file__).parent / "room" / "frames"


def main() -> None:
    model = load("demo")
    with open_source(SourceConfig(frames=str(FRAMES), size=model.config.image_size)) as source:
        images = np.stack([frame.image for frame in source])
    videos = np.stack([images[0:8], images[8:16], images[16:24]], axis=1)  # [T, B, H, W, 3]
    _, batch, height, width, _ = videos.shape
    cache = CacheConfig(total_budget=2_000)
    state = init_stream(model, cache, height=height, width=width, batch=batch, heads=("camera",))
    for chunk in np.split(videos, 2):  # scan is compiled once, for chunks of four; it works inside your own jit, too
        state, predictions = scan(model, state, chunk)
        print(f"poses {predictions.pose_encoding.shape}, frames seen by each stream: {state.frame}")
    state = reset(state, where=np.array([False, True, False]))
    print(f"after the reset of the second: {state.frame}")


if __name__ == "__main__":
    main()
