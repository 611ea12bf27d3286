"""A stream of frames through a cache that stops growing: python examples/02_endless_stream.py"""

from pathlib import Path

from ivggt_jax import CacheConfig, init_stream, load, step
from ivggt_jax.sources import SourceConfig, open_source

FRAMES = Path(__file__).parent / "room" / "frames"


def main() -> None:
    model = load("demo")
    state = None
    with open_source(SourceConfig(frames=str(FRAMES), size=model.config.image_size)) as source:
        for frame in source:
            if state is None:  # every buffer's size is known here, before the first frame
                height, width, _ = frame.image.shape
                cache = CacheConfig(total_budget=2_000)
                state = init_stream(model, cache, height=height, width=width, heads=("camera", "depth"))
                print(f"the stream takes {state.nbytes / 1e6:.1f} MB, for ever")
            state, predictions = step(model, state, frame.image[None])  # the old state is used up
            print(
                f"{frame.name}: {int(state.lengths[0].sum())} tokens kept, translation {predictions.pose_encoding[0, :3]}"
            )


if __name__ == "__main__":
    main()
