"""A rule of your own for what the cache forgets, against the published one: python examples/05_own_policy.py"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ivggt_jax import CacheConfig, init_stream, load, scan
from ivggt_jax.sources import SourceConfig, open_source

FRAMES = Path(__file__).parent / "room" / "frames"


def oldest_patches(keys, live, candidates, origin, extra):
    """Patches go by age, the oldest first; camera and register tokens stay twice as long. [batch, head, slot] in [0, 1]"""
    newest = origin.newest[:, None, None]
    age = (newest - origin.frame) / jnp.maximum(
        newest, 1
    )  # [batch, slot, head]: 0 for the newest frame, 1 for the first
    return jnp.where(origin.special, age / 2, age).transpose(0, 2, 1)


def main() -> None:
    model = load("demo")
    with open_source(SourceConfig(frames=str(FRAMES), size=model.config.image_size)) as source:
        images = np.stack([frame.image for frame in source])
    _, height, width, _ = images.shape
    for policy in ("diversity", oldest_patches):
        cache = CacheConfig(total_budget=2_000, policy=policy)
        state = init_stream(model, cache, height=height, width=width, heads=("camera",))
        state, _ = scan(model, state, images[:, None])
        live = int(state.lengths[0, -1])
        frames = np.asarray(state.cache.origin[-1, 0, :live]) // model.config.tokens_per_frame(height, width)
        kept = np.bincount(frames.ravel(), minlength=len(images)) // model.config.heads
        print(f"{policy if isinstance(policy, str) else policy.__name__}: tokens kept of each frame {kept}")


if __name__ == "__main__":
    main()
